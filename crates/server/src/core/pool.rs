//! The helper pool: the only threads that may block. Checkpoints, log segments, hashes and exports run here.
//!
//! A job is a closure that sends its own result; the pool knows nothing of what it runs. Jobs are few and long,
//! so one lock and one condition are enough.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Pool {
    /// `threads` workers; at least two, so that a long export does not hold up a log segment.
    pub fn start(threads: usize) -> std::io::Result<(Pool, Vec<JoinHandle<()>>)> {
        assert!(threads >= 2, "one long job must not block the log");
        let pool = Pool { shared: Arc::new(Shared { queue: Mutex::default(), wake: Condvar::new() }) };
        let mut handles = Vec::with_capacity(threads);
        for number in 0..threads {
            let shared = pool.shared.clone();
            let builder = std::thread::Builder::new().name(format!("pool-{number}"));
            handles.push(builder.spawn(move || shared.work())?);
        }
        Ok((pool, handles))
    }

    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut queue = self.shared.lock();
        queue.jobs.push_back(Box::new(job));
        drop(queue);
        self.shared.wake.notify_one();
    }

    /// Workers end after the jobs that wait.
    pub fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        // A panic aborts the process in release builds; in tests the queue itself is still whole.
        self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let mut queue = self.lock();
            let job = loop {
                if let Some(job) = queue.jobs.pop_front() {
                    break job;
                }
                if queue.closed {
                    return;
                }
                queue = self.wake.wait(queue).unwrap_or_else(std::sync::PoisonError::into_inner);
            };
            drop(queue);
            job();
        }
    }
}
