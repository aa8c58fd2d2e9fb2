//! A server process: started with flags, ready when its log says so, killed by its own id.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// What etcd, and so we, print once requests are served.
const READY: &str = "ready to serve client requests";
/// A start that takes longer has hung.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Log lines kept for the report of a failure.
const LINES_KEPT: usize = 15;

/// How to start a server. Flags may repeat what is set here: the last one counts.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub binary: PathBuf,
    pub flags: Vec<String>,
    /// The text that member and cluster ids are derived from; the same text gives the same ids.
    pub advertise_peer: String,
    /// The text that MemberList shows; nobody dials it.
    pub advertise_client: String,
}

impl Recipe {
    pub fn new(binary: &Path) -> Recipe {
        Recipe {
            binary: binary.to_path_buf(),
            flags: Vec::new(),
            advertise_peer: "http://127.0.0.1:32380".into(),
            advertise_client: "http://127.0.0.1:32379".into(),
        }
    }

    pub fn flag(mut self, flag: impl Into<String>) -> Recipe {
        self.flags.push(flag.into());
        self
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("loopback").local_addr().expect("bound").port()
}

pub struct Server {
    recipe: Recipe,
    child: Option<Child>,
    /// Where clients connect.
    pub endpoint: String,
    peer: String,
    /// The data directory; `_owned` removes it, unless the caller brought it.
    pub dir: PathBuf,
    _owned: Option<TempDir>,
    log: Arc<Mutex<VecDeque<String>>>,
}

impl Server {
    /// Starts on fresh ports and a fresh directory, and waits until it is ready.
    pub fn start(recipe: Recipe) -> Server {
        let owned = tempfile::Builder::new().prefix("member").tempdir().expect("a temporary directory");
        let dir = owned.path().join("data");
        let mut server = Server::prepare(recipe, dir, Some(owned));
        server.restart().unwrap_or_else(|why| panic!("{why}"));
        server
    }

    /// Starts in a directory of the caller's.
    pub fn start_in(recipe: Recipe, dir: &Path) -> Result<Server, String> {
        let mut server = Server::prepare(recipe, dir.to_path_buf(), None);
        server.restart()?;
        Ok(server)
    }

    fn prepare(recipe: Recipe, dir: PathBuf, owned: Option<TempDir>) -> Server {
        Server {
            recipe,
            child: None,
            endpoint: format!("http://127.0.0.1:{}", free_port()),
            peer: format!("http://127.0.0.1:{}", free_port()),
            dir,
            _owned: owned,
            log: Arc::default(),
        }
    }

    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Starts it, with the same flags, ports and directory as before, and waits until it is ready.
    pub fn restart(&mut self) -> Result<(), String> {
        let waiting = self.spawn()?;
        let outcome = wait_ready(&waiting);
        if outcome.is_err() {
            self.kill();
        }
        outcome.map_err(|why| format!("{:?} {why}; it said:\n{}", self.recipe.binary, self.last_lines()))
    }

    /// Starts it and kills it `after` that, ready or not.
    pub fn restart_and_kill(&mut self, after: Duration) -> Result<(), String> {
        let _waiting = self.spawn()?;
        std::thread::sleep(after);
        self.kill();
        Ok(())
    }

    fn spawn(&mut self) -> Result<Receiver<()>, String> {
        assert!(self.child.is_none(), "it runs already");
        self.log.lock().expect("no panic holds the log").clear();
        let recipe = &self.recipe;
        let mut child = Command::new(&recipe.binary)
            .arg("--name=m")
            .arg(format!("--data-dir={}", self.dir.display()))
            .arg(format!("--listen-client-urls={}", self.endpoint))
            .arg(format!("--advertise-client-urls={}", recipe.advertise_client))
            .arg(format!("--listen-peer-urls={}", self.peer))
            .arg(format!("--initial-advertise-peer-urls={}", recipe.advertise_peer))
            .arg(format!("--initial-cluster=m={}", recipe.advertise_peer))
            .arg("--initial-cluster-token=black-box")
            .args(&recipe.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{:?} does not start: {error}", recipe.binary))?;
        let (ready, waiting) = channel();
        self.follow(child.stdout.take().expect("piped"), ready.clone());
        self.follow(child.stderr.take().expect("piped"), ready);
        self.child = Some(child);
        Ok(waiting)
    }

    fn follow(&self, pipe: impl Read + Send + 'static, ready: Sender<()>) {
        let log = Arc::clone(&self.log);
        std::thread::spawn(move || {
            let mut ready = Some(ready);
            for line in BufReader::new(pipe).lines() {
                let Ok(line) = line else { return };
                if line.contains(READY)
                    && let Some(ready) = ready.take()
                {
                    // Nobody listens any more after the start.
                    let _ = ready.send(());
                }
                let mut log = log.lock().expect("no panic holds the log");
                // Behind the line that says why comes a long trace: keep the line.
                let final_words = log.front().is_some_and(|first| first.contains("panic"));
                if log.len() == LINES_KEPT {
                    log.remove(usize::from(final_words));
                }
                if line.contains("panic") && !final_words {
                    log.clear();
                }
                log.push_back(line.chars().take(400).collect());
            }
        });
    }

    /// The end of its log.
    pub fn last_lines(&self) -> String {
        let log = self.log.lock().expect("no panic holds the log");
        log.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; that is found out by whoever asked it last.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGSTOP: it hangs, and its connections stay.
    pub fn suspend(&self) {
        // SAFETY: the process is our child and was not waited for, so the id is still its own.
        unsafe { libc::kill(self.id() as i32, libc::SIGSTOP) };
    }

    /// SIGCONT.
    pub fn resume(&self) {
        // SAFETY: as above.
        unsafe { libc::kill(self.id() as i32, libc::SIGCONT) };
    }

    /// SIGTERM, and waits for the end; true when it ended in time and, as etcd does, by that signal.
    pub fn terminate(&mut self, timeout: Duration) -> bool {
        let Some(mut child) = self.child.take() else { return true };
        // SAFETY: the process is our child and was not waited for, so the id is still its own.
        unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
        let start = Instant::now();
        while start.elapsed() < timeout {
            if let Some(status) = child.try_wait().expect("our own child") {
                return status.signal() == Some(libc::SIGTERM);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
        false
    }

    /// Whether the process has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().expect("our own child").is_some())
    }
}

fn wait_ready(waiting: &Receiver<()>) -> Result<(), String> {
    match waiting.recv_timeout(START_TIMEOUT) {
        Ok(()) => Ok(()),
        Err(RecvTimeoutError::Timeout) => Err("never said that it is ready".into()),
        // Both pipes closed: it ended.
        Err(RecvTimeoutError::Disconnected) => Err("ended while it started".into()),
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the last lines of {:?}:\n{}", self.recipe.binary, self.last_lines());
        }
    }
}
