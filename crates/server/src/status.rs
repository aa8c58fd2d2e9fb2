//! What the edge asks of the server: leader, alarms, versions, health reads, metrics.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use edge::{Alarm, Reply, State, Versions};
use proto::etcdserverpb::AlarmType;
use replica::Published;

use crate::metrics::{Facts, Registry};

pub struct Status {
    published: Arc<Published>,
    /// The edge's own pin slot; a lock, because a reader belongs to one thread at a time.
    reader: Mutex<tree::Reader>,
    version: String,
    registry: Arc<Registry>,
    /// Checks that wait for a leader, each with its deadline.
    waiting: Mutex<Vec<(Instant, Reply)>>,
    check_timeout: Duration,
}

impl Status {
    pub fn new(
        published: Arc<Published>,
        reader: tree::Reader,
        version: String,
        registry: Arc<Registry>,
        check_timeout: Duration,
    ) -> Status {
        Status {
            published,
            reader: Mutex::new(reader),
            version,
            registry,
            waiting: Mutex::default(),
            check_timeout,
        }
    }

    fn with_view<T>(&self, read: impl FnOnce(tree::View<'_>) -> T) -> T {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = reader.pin();
        read(snapshot.view())
    }

    fn facts(&self) -> Facts {
        let published = &self.published;
        // Before this takes one itself.
        let pins = self.reader.lock().unwrap_or_else(PoisonError::into_inner).all_pinned() as u64;
        let of_cluster = Facts {
            member_id: published.member_id,
            leader: published.leader(),
            is_learner: published.is_learner(),
            cluster_version: self.versions().cluster,
            committed: published.committed(),
            applied: published.applied(),
            db_bytes: published.file_bytes(),
            db_bytes_in_use: published.used_bytes(),
            pins,
            ..Facts::default()
        };
        self.with_view(|view| {
            let stamp = view.stamp();
            let auth = view.get(mvcc::trees::AUTH, bbolt::schema::auth::REVISION);
            let alarms = api::alarms(view).into_iter();
            Facts {
                alarms: alarms.map(|alarm| (alarm.member_id, alarm.alarm().as_str_name().into())).collect(),
                current_revision: mvcc::stamp::current(stamp),
                compact_revision: mvcc::stamp::compacted(stamp),
                keys: view.len(mvcc::trees::LIVE),
                // etcd's first revision of users and roles, which it has before there are any.
                auth_revision: auth.and_then(|value| bbolt::schema::parse_u64(value).ok()).unwrap_or(1),
                ..of_cluster
            }
        })
    }

    /// Called every so often: answers checks whose barrier has passed or whose time is up.
    pub fn poll(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = self.published.read_ready();
        let now = Instant::now();
        for (deadline, reply) in std::mem::take(&mut *waiting) {
            if ready {
                reply.send(Ok(()));
            } else if deadline <= now {
                reply.send(Err("etcdserver: request timed out".into()));
            } else {
                waiting.push((deadline, reply));
            }
        }
    }
}

impl State for Status {
    fn leader(&self) -> u64 {
        self.published.leader()
    }

    fn is_learner(&self) -> bool {
        self.published.is_learner()
    }

    fn alarms(&self) -> Vec<Alarm> {
        self.with_view(api::alarms)
            .into_iter()
            .map(|alarm| match alarm.alarm() {
                AlarmType::Nospace => Alarm::NoSpace,
                AlarmType::Corrupt => Alarm::Corrupt,
                AlarmType::None => Alarm::Other(alarm.alarm),
            })
            .collect()
    }

    fn versions(&self) -> Versions {
        let word = self.published.cluster_version();
        let cluster = (word != 0).then(|| format!("{}.{}.0", word >> 16, word & 0xffff));
        Versions { server: self.version.clone(), storage: cluster.clone(), cluster }
    }

    fn serializable_check(&self) -> Result<(), String> {
        self.with_view(|view| {
            view.get(mvcc::trees::LIVE, b"a");
            Ok(())
        })
    }

    fn linearizable_check(&self, reply: Reply) {
        if self.published.read_ready() {
            // With one voter that leads, the published root is the barrier.
            return reply.send(Ok(()));
        }
        let deadline = Instant::now() + self.check_timeout;
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push((deadline, reply));
    }

    fn render_metrics(&self) -> String {
        self.registry.render(&self.facts())
    }

    fn debug_vars(&self) -> Vec<(String, String)> {
        let args: Vec<String> = std::env::args().collect();
        let status = format!(
            r#"{{"id":"{:x}","term":{},"commit":{},"applied":{},"lead":"{:x}"}}"#,
            self.published.member_id,
            self.published.term(),
            self.published.committed(),
            self.published.applied(),
            self.published.leader()
        );
        vec![
            ("cmdline".into(), serde_json::to_string(&args).unwrap_or_default()),
            ("file_descriptor_limit".into(), crate::metrics::max_fds().to_string()),
            ("raft.status".into(), status),
        ]
    }

    fn health_answered(&self, healthy: bool) {
        let edge = &self.registry.edge;
        if healthy { &edge.healthy } else { &edge.unhealthy }.inc();
    }

    fn check_answered(&self, kind: &'static str, name: &'static str, ok: bool) {
        self.registry.edge.check(kind, name, ok);
    }
}
