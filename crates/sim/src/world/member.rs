//! A member's machine: its disk, its clock (kept by the world), and the process that runs on it, or not.
//!
//! A process can end in four ways: in order, by a kill (the disk keeps what it was given), by an I/O error (law 8), or
//! with the power, when the disk decides what of the unsynced survives. Whatever the way, the next start must come up
//! with everything that was acknowledged, unless an error was injected into it. A full disk excuses nobody but the
//! start that founds the directory: a process that runs does not end for want of room, and one that is to start where
//! a member lived comes up without any. Only when the disk was full through several lives, each too short to give back
//! what its start had taken, there may be no segment of the log left to take; and such a life listens to no client.
//!
//! After an I/O error the machine loses its power too before the next start ("check the disk, then start again"): a
//! sync that failed leaves contents that can be read and will never be durable, and no program that reads them back
//! can tell.

use std::sync::Arc;

use base::Random;
use disk::SimFiles;
use disk::sim::KeepSet;
use proto::etcdserverpb as pb;

use super::Env;
use super::coverage::Mechanism;
use super::disk::{Errors, ProcessFiles};
use super::network::Node;
use super::process::{End, Process};
use super::profile::Sizes;
use super::trace::{self, What};
use super::{Event, Failure};
use crate::history;

/// What the disk of a machine is made to do.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ailment {
    pub errors: Errors,
    /// Free room, bytes; 0: plenty.
    pub free_bytes: u64,
}

pub(super) struct Member {
    pub id: u32,
    pub files: SimFiles,
    pub process: Option<Process>,
    life: u32,
    /// Some start has come up: the directory is a member's.
    founded: bool,
    /// The life before this ended without a segment that the next start could take, or a start was cut short that had
    /// taken one.
    segments_gone: bool,
    pub ailment: Ailment,
    /// The member's own starts draw from this.
    random: Random,
    /// A start is on its way.
    starting: bool,
    /// The power went, or goes at an operation that was chosen.
    halting: bool,
    /// A read of the next start fails: which.
    spoiled_read: Option<u64>,
}

/// How a process ends from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blow {
    Power,
    Kill,
    /// It ended by itself, after an I/O error.
    Error,
    /// It ended by itself, as it was asked to.
    Stop,
}

impl Blow {
    fn text(self) -> &'static str {
        match self {
            Blow::Power => "power",
            Blow::Kill => "kill",
            Blow::Error => "disk error",
            Blow::Stop => "stop",
        }
    }
}

const PLENTY_BYTES: u64 = 1 << 50;

/// Whether a start that failed found no segment for its log.
fn wants_a_segment(error: &replica::OpenError) -> bool {
    match error {
        replica::OpenError::Log(wal::WalError::Io { what, source }) => {
            what.starts_with("make the log segment") && disk::is_no_space(source)
        }
        _ => false,
    }
}

/// Whether a start failed for want of room.
fn wants_room(error: &replica::OpenError) -> bool {
    let first: &(dyn std::error::Error + 'static) = error;
    let mut causes = std::iter::successors(Some(first), |cause| cause.source());
    causes.any(|cause| cause.downcast_ref().is_some_and(disk::is_no_space))
}

impl Member {
    pub fn new(id: u32, random: Random) -> Member {
        Member {
            id,
            files: SimFiles::new(),
            process: None,
            life: 0,
            founded: false,
            segments_gone: false,
            ailment: Ailment::default(),
            random,
            starting: false,
            halting: false,
            spoiled_read: None,
        }
    }

    pub fn node(&self) -> Node {
        Node::Member(self.id)
    }

    /// The process of this life, if it still lives.
    pub fn process_of(&mut self, life: u32) -> Option<&mut Process> {
        self.process.as_mut().filter(|process| process.life == life)
    }

    /// A start in some time, unless one is coming.
    pub fn start_later(&mut self, env: &mut Env, after_us: u64) {
        if !std::mem::replace(&mut self.starting, true) {
            env.at(env.now_us + after_us, Event::Start { member: self.id });
        }
    }

    fn start_soon(&mut self, env: &mut Env) {
        let after_us = super::queue::magnitude(&mut env.random, 10_000, 10_000_000);
        self.start_later(env, after_us);
    }

    /// Starts the process.
    pub fn start(&mut self, env: &mut Env, sizes: &Sizes) -> Result<(), Failure> {
        self.starting = false;
        if self.process.is_some() {
            return Ok(());
        }
        self.life += 1;
        trace::note(What::Start { member: self.id, life: self.life });
        let at_us = env.history_us();
        env.history.note(at_us, history::Note::Started { member: self.id });
        let files = ProcessFiles::new(self.files.clone(), self.id, Random::new(self.random.next_u64()));
        self.apply_ailment(Some(&files));
        let boot = self.random.next_u64();
        let spoiled = self.spoiled_read.take().map(|after| self.files.reads() + after);
        if let Some(read) = spoiled {
            self.files.fail_read_at(read);
        }
        let opened = replica::open(Arc::new(files.clone()), start_options(sizes, boot), || Ok(()));
        let (io_errors, no_space) = files.errors_met();
        env.coverage.add(Mechanism::IoError, io_errors);
        self.files.fail_read_at(u64::MAX);
        let failed_read = spoiled.is_some_and(|read| self.files.reads() > read);
        env.coverage.add(Mechanism::ReadError, u64::from(failed_read));
        let short_of_room = self.ailment.free_bytes > 0 || no_space > 0;
        match opened {
            Ok(_) if failed_read => {
                let text = format!("member {} was opened over a read that failed", self.id);
                return Err(Failure::new("Start", text));
            }
            Ok((mut replica, report)) => {
                if sizes.shared_core {
                    replica.share_thread();
                }
                trace::note(What::Started {
                    member: self.id,
                    applied: report.applied,
                    replayed: report.replayed_entries as u64,
                });
                let coverage = &mut env.coverage;
                coverage.add(Mechanism::Recovery, u64::from(!report.founded));
                coverage.add(Mechanism::Replay, report.replayed_entries as u64);
                coverage.add(Mechanism::TornTail, u64::from(report.cut.is_some()));
                coverage.add(Mechanism::OlderMeta, u64::from(report.store.unreadable.is_some()));
                if let Some(lost) = report.checkpoint_lost {
                    return Err(Failure::new("Lost", format!("member {}: {lost}", self.id)));
                }
                self.founded = true;
                let process = Process::new(env, self.id, self.life, files, replica, sizes, boot);
                self.process = Some(process);
            }
            Err(error) => {
                trace::note(What::StartFailed { member: self.id });
                let excused = self.segments_gone && wants_a_segment(&error);
                files.end();
                if self.files.halted() {
                    env.coverage.one(Mechanism::PowerLossInStart);
                    self.segments_gone = true;
                    self.lose_power(env);
                } else if io_errors > 0 {
                    self.segments_gone = true;
                    self.lose_power(env);
                } else if failed_read || (short_of_room && (excused || !self.founded && wants_room(&error))) {
                    env.coverage.add(Mechanism::SegmentWanted, u64::from(excused));
                    self.start_soon(env);
                } else {
                    return Err(Failure::new("Start", format!("member {} refuses: {error}", self.id)));
                }
            }
        }
        Ok(())
    }

    /// Ends the process, if there is one, and sees to it that another is started.
    pub fn strike(&mut self, env: &mut Env, blow: Blow) {
        trace::note(What::Ended { member: self.id, how: blow.text() });
        let at_us = env.history_us();
        if let Some(mut process) = self.process.take() {
            env.history.note(at_us, history::Note::Stopped { member: self.id });
            env.causes.stopped(env.now_us);
            self.segments_gone = process.may_want_a_segment();
            let (io_errors, no_space) = process.files.errors_met();
            env.coverage.add(Mechanism::IoError, io_errors);
            env.coverage.add(Mechanism::NoSpace, no_space);
            match blow {
                Blow::Power => env.coverage.one(Mechanism::PowerLoss),
                Blow::Kill => env.coverage.one(Mechanism::Kill),
                Blow::Error => env.coverage.one(Mechanism::IoErrorEnd),
                Blow::Stop => env.coverage.one(Mechanism::Stop),
            }
            process.abandon_writes(env);
            process.files.end();
            env.network.node_ended(env.now_us, self.node(), blow == Blow::Power);
            if matches!(blow, Blow::Power | Blow::Error) {
                self.lose_power(env);
            }
            // Not before the crash was made: closing files forgets what only handles hold.
            drop(process);
        } else if blow == Blow::Power {
            self.lose_power(env);
        }
        self.start_soon(env);
    }

    /// The disk decides what of the unsynced survives.
    fn lose_power(&mut self, env: &mut Env) {
        let random = &mut env.random;
        let which = random.below(4);
        self.files = self.files.crash(&mut |count| match which {
            0 => KeepSet::none(count),
            1 => KeepSet::all(count),
            _ => KeepSet::random(count, random),
        });
        self.halting = false;
        self.apply_ailment(None);
        self.start_soon(env);
    }

    /// The power goes in the midst of an operation of the disk, so many from now.
    pub fn halt_after(&mut self, operations: u64) {
        self.files.halt_at(self.files.operations() + operations);
        self.halting = true;
    }

    /// After anything that may have used the disk: notices what it led to.
    pub fn look(&mut self, env: &mut Env) -> Result<(), Failure> {
        if self.halting && self.files.halted() {
            env.coverage.one(Mechanism::PowerLossInOperation);
            self.strike(env, Blow::Power);
            return Ok(());
        }
        let Some(process) = &self.process else { return Ok(()) };
        if process.published.alarm(pb::AlarmType::Nospace) && !process.has_stored_alarm() {
            return Err(Failure::new(
                "Alarms",
                format!("member {} has an alarm that is not stored", self.id),
            ));
        }
        match process.end {
            Some(End::Stopped) => self.strike(env, Blow::Stop),
            Some(End::Disk) => {
                let (io_errors, _) = process.files.errors_met();
                if io_errors == 0 {
                    let said = process.said.as_deref().unwrap_or("nothing");
                    let text = format!(
                        "member {} ended, and no operation of the disk had failed; it said: {said}",
                        self.id
                    );
                    return Err(Failure::new("Disk", text));
                }
                self.strike(env, Blow::Error);
            }
            None if process.files.is_wounded() => {
                let text = format!("member {} goes on after an operation that failed (law 8)", self.id);
                return Err(Failure::new("Survived", text));
            }
            None => {}
        }
        Ok(())
    }

    /// Changes what the disk does, for this process and those that follow.
    pub fn ail(&mut self, ailment: Ailment) {
        self.ailment = ailment;
        let files = self.process.as_ref().map(|process| process.files.clone());
        self.apply_ailment(files.as_ref());
    }

    fn apply_ailment(&self, process: Option<&ProcessFiles>) {
        let Ailment { errors, free_bytes } = self.ailment;
        if let Some(process) = process {
            process.set_errors(errors);
        }
        let capacity = match free_bytes {
            0 => PLENTY_BYTES,
            free_bytes => self.used_bytes() + free_bytes,
        };
        self.files.set_capacity(capacity);
    }

    fn used_bytes(&self) -> u64 {
        self.files.set_capacity(PLENTY_BYTES);
        let free = disk::Files::free_bytes(&self.files).expect("a simulated disk knows its room");
        PLENTY_BYTES - free
    }

    /// Some read of the next start fails.
    pub fn spoil_read(&mut self, after: u64) {
        if self.process.is_none() {
            self.spoiled_read = Some(after);
        }
    }

    /// After the faults: it runs, or is started.
    pub fn recover(&mut self, env: &mut Env) {
        match &mut self.process {
            Some(process) => process.resume(env),
            None => self.start_later(env, 1_000),
        }
    }

    /// No fault is left that somebody put in.
    pub fn heal(&mut self) {
        self.ail(Ailment::default());
        if !self.files.halted() {
            self.files.halt_at(u64::MAX);
            self.halting = false;
        }
        self.spoiled_read = None;
    }
}

fn founder() -> bbolt::schema::Member {
    replica::founding_member(
        "default",
        &["http://localhost:2380".into()],
        &["http://localhost:2379".into()],
        "etcd-cluster",
    )
}

/// Of the member that the clients talk to.
pub(super) fn member_id() -> u64 {
    founder().id
}

fn start_options(sizes: &Sizes, boot: u64) -> replica::Start {
    let member = founder();
    let defaults = replica::CheckpointPolicy::default();
    replica::Start {
        options: replica::Options {
            member,
            heartbeat_ms: super::HEARTBEAT_MS,
            election_ms: super::ELECTION_MS,
            auto_compaction: sizes.auto_compaction,
            checkpoint: replica::CheckpointPolicy {
                dirty_bytes: sizes.dirty_bytes,
                log_bytes: sizes.log_bytes,
                interval_ms: sizes.checkpoint_interval_ms,
                // A cap would make the job sleep on the real clock.
                bytes_per_second: 0,
                ..defaults
            },
            scrub: sizes.scrub,
            memory_budget_bytes: sizes.memory_budget_bytes,
            cluster_version: "3.7.0".into(),
        },
        quota_config_bytes: sizes.quota_bytes,
        tree: tree::Options {
            chunk_bytes: sizes.chunk_bytes,
            max_chunks: 1024,
            reserve_bytes: sizes.reserve_bytes,
        },
        wal: wal::Options {
            segment_bytes: sizes.segment_bytes,
            batch_bytes: sizes.batch_bytes,
            in_flight: sizes.in_flight,
            boot,
        },
        boot,
    }
}
