//! Whoever makes things go wrong: draws faults from the profile's weights, one after the other, and takes back in time
//! those that last. It stops when the safety phase ends.

use base::Random;

use super::client::Client;
use super::clock::TRUE_RATE;
use super::coverage::Mechanism;
use super::disk::Errors;
use super::job::Mail;
use super::member::{Ailment, Blow, Member};
use super::network::Node;
use super::profile::Faults;
use super::queue::{between, magnitude};
use super::trace::{self, What};
use super::{Env, Event, FAIR};

/// The end of a fault that lasts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Undo {
    Clock { member: u32 },
    Ailment { member: u32 },
    SlowDisk,
    SlowHelpers,
    SlowCores,
    Partition,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Power,
    PowerAtOperation,
    Kill,
    Restart,
    Pause,
    ClockJump,
    ClockRate,
    IoError,
    NoSpace,
    FullDisk,
    SlowDisk,
    SlowHelpers,
    SlowCores,
    Partition,
    Reset,
    SlowReader,
    Memory,
}

fn weights(faults: &Faults) -> [(Fault, u64); 17] {
    [
        (Fault::Power, faults.power),
        (Fault::PowerAtOperation, faults.power_at_operation),
        (Fault::Kill, faults.kill),
        (Fault::Restart, faults.restart),
        (Fault::Pause, faults.pause),
        (Fault::ClockJump, faults.clock_jump),
        (Fault::ClockRate, faults.clock_rate),
        (Fault::IoError, faults.io_error),
        (Fault::NoSpace, faults.no_space),
        (Fault::FullDisk, faults.full_disk),
        (Fault::SlowDisk, faults.slow_disk),
        (Fault::SlowHelpers, faults.slow_helpers),
        (Fault::SlowCores, faults.slow_core),
        (Fault::Partition, faults.partition),
        (Fault::Reset, faults.reset),
        (Fault::SlowReader, faults.slow_reader),
        (Fault::Memory, faults.memory),
    ]
}

pub(super) struct Nemesis {
    random: Random,
    over: bool,
    count: u64,
}

impl Nemesis {
    pub fn new(random: Random) -> Nemesis {
        Nemesis { random, over: false, count: 0 }
    }

    pub fn begin(&self, env: &mut Env) {
        let (low_us, high_us) = env.profile.faults.every_us;
        let after_us = magnitude(&mut env.random, low_us, high_us);
        env.at(after_us, Event::Fault);
    }

    /// One fault, and the appointment for the next.
    pub fn strike(&mut self, env: &mut Env, members: &mut [Member], clients: &mut [Client]) {
        if self.over {
            return;
        }
        let faults = env.profile.faults.clone();
        let after_us = magnitude(&mut self.random, faults.every_us.0, faults.every_us.1);
        env.at(env.now_us + after_us, Event::Fault);
        let weights = weights(&faults);
        let mut drawn = self.random.below(weights.iter().map(|(_, weight)| weight).sum());
        for (fault, weight) in weights {
            if drawn < weight {
                self.count += 1;
                return self.bring(env, members, clients, fault);
            }
            drawn -= weight;
        }
    }

    fn bring(&mut self, env: &mut Env, members: &mut [Member], clients: &mut [Client], fault: Fault) {
        let member = &mut members[self.random.below(members.len() as u64) as usize];
        let id = member.id;
        let lasts_us = magnitude(&mut self.random, 100_000, 20_000_000);
        let until_us = env.now_us + lasts_us;
        trace::note(What::Fault { fault: name(fault), number: self.count });
        match fault {
            Fault::NoSpace | Fault::FullDisk | Fault::SlowDisk | Fault::SlowHelpers => env.strain(until_us),
            Fault::Pause | Fault::ClockJump | Fault::ClockRate | Fault::SlowCores => env.hold_up(until_us),
            _ => {}
        }
        match fault {
            Fault::Power => member.strike(env, Blow::Power),
            Fault::PowerAtOperation => {
                let after = magnitude(&mut self.random, 1, 600) - 1;
                member.halt_after(after);
            }
            Fault::Kill => {
                if member.process.is_some() {
                    member.strike(env, Blow::Kill);
                }
            }
            Fault::Restart => {
                if let Some(process) = member.process.as_mut().filter(|process| !process.stopping) {
                    process.stop(env);
                    let life = process.life;
                    let after_us = magnitude(&mut self.random, 1_000, 2_000_000);
                    env.at(env.now_us + after_us, Event::StopLog { member: id, life });
                }
            }
            Fault::Pause => {
                if let Some(process) = &mut member.process {
                    env.coverage.one(Mechanism::Pause);
                    process.pause(until_us);
                }
            }
            Fault::ClockJump => {
                env.coverage.one(Mechanism::ClockJump);
                let by_us = magnitude(&mut self.random, 50_000, 200_000_000);
                env.clocks[id as usize].jump(env.now_us, by_us);
            }
            Fault::ClockRate => {
                env.coverage.one(Mechanism::ClockRate);
                let rates = [0, TRUE_RATE / 10, TRUE_RATE / 2, 2 * TRUE_RATE, 10 * TRUE_RATE];
                let rate = rates[self.random.below(rates.len() as u64) as usize];
                env.clocks[id as usize].set_rate(env.now_us, rate);
                env.at(until_us, Event::Undo(Undo::Clock { member: id }));
            }
            Fault::IoError => {
                let io_one_in = [1, 5, 60][self.random.below(3) as usize];
                member.spoil_read(self.random.below(40));
                let errors = Errors { io_one_in, no_space_one_in: 0 };
                member.ail(Ailment { errors, ..Ailment::default() });
                env.at(until_us, Event::Undo(Undo::Ailment { member: id }));
            }
            Fault::NoSpace => {
                let no_space_one_in = [1, 3][self.random.below(2) as usize];
                env.causes.short_of_room = true;
                let errors = Errors { io_one_in: 0, no_space_one_in };
                member.ail(Ailment { errors, ..Ailment::default() });
                env.at(until_us, Event::Undo(Undo::Ailment { member: id }));
            }
            Fault::FullDisk => {
                env.coverage.one(Mechanism::FullDisk);
                env.causes.short_of_room = true;
                let free_bytes = magnitude(&mut self.random, 1, 1 << 20);
                member.ail(Ailment { free_bytes, ..Ailment::default() });
                env.at(until_us, Event::Undo(Undo::Ailment { member: id }));
            }
            Fault::SlowDisk => {
                env.coverage.one(Mechanism::SlowDisk);
                env.weather.disk_us = (2_000, 1_500_000);
                env.at(until_us, Event::Undo(Undo::SlowDisk));
            }
            Fault::SlowHelpers => {
                env.weather.helper_us = (20_000, 8_000_000);
                env.at(until_us, Event::Undo(Undo::SlowHelpers));
            }
            Fault::SlowCores => {
                env.weather.core_us = (100, 100_000);
                env.at(until_us, Event::Undo(Undo::SlowCores));
            }
            Fault::Partition => {
                env.coverage.one(Mechanism::Partition);
                let some = self.random.below(1 << clients.len());
                let chosen = clients.iter().filter(|client| some >> client.id & 1 == 1);
                let nodes: Vec<Node> = chosen.map(|client| Node::Client(client.id)).collect();
                let ways = self.random.below(3);
                for node in nodes {
                    if ways != 1 {
                        env.network.cut(node, Node::Member(id));
                    }
                    if ways != 2 {
                        env.network.cut(Node::Member(id), node);
                    }
                }
                env.at(until_us, Event::Undo(Undo::Partition));
            }
            Fault::Reset => {
                for client in clients.iter() {
                    for connection in client.connections() {
                        if self.random.one_in(2) {
                            env.coverage.one(Mechanism::Reset);
                            env.network.break_off(env.now_us, connection);
                        }
                    }
                }
            }
            Fault::SlowReader => {
                env.coverage.one(Mechanism::SlowReader);
                let client = self.random.below(clients.len() as u64) as usize;
                clients[client].dawdle(env, lasts_us);
            }
            Fault::Memory => {
                if let Some(process) = &mut member.process {
                    let bytes = between(&mut self.random, 1, 8 << 20);
                    process.post(env, Mail::Log(replica::Event::Resident { bytes }));
                }
            }
        }
    }

    pub fn undo(&mut self, env: &mut Env, members: &mut [Member], undo: Undo) {
        match undo {
            Undo::Clock { member } => env.clocks[member as usize].set_rate(env.now_us, TRUE_RATE),
            Undo::Ailment { member } => members[member as usize].ail(Ailment::default()),
            Undo::SlowDisk => env.weather.disk_us = FAIR.disk_us,
            Undo::SlowHelpers => env.weather.helper_us = FAIR.helper_us,
            Undo::SlowCores => env.weather.core_us = FAIR.core_us,
            Undo::Partition => env.network.heal(),
        }
    }

    /// No fault comes any more, and none is left.
    pub fn end(&mut self, env: &mut Env, members: &mut [Member]) {
        self.over = true;
        env.weather = FAIR;
        env.network.heal();
        for member in members {
            env.clocks[member.id as usize].set_rate(env.now_us, TRUE_RATE);
            member.heal();
        }
    }
}

fn name(fault: Fault) -> &'static str {
    match fault {
        Fault::Power => "power",
        Fault::PowerAtOperation => "power at an operation",
        Fault::Kill => "kill",
        Fault::Restart => "restart",
        Fault::Pause => "pause",
        Fault::ClockJump => "clock jump",
        Fault::ClockRate => "clock rate",
        Fault::IoError => "EIO",
        Fault::NoSpace => "ENOSPC",
        Fault::FullDisk => "full disk",
        Fault::SlowDisk => "slow disk",
        Fault::SlowHelpers => "slow helpers",
        Fault::SlowCores => "slow cores",
        Fault::Partition => "partition",
        Fault::Reset => "reset",
        Fault::SlowReader => "slow reader",
        Fault::Memory => "memory",
    }
}
