//! What helpers do: the jobs of the log core and of shards, run to their end between two steps of the world, with the
//! other cores' turns in between where the job waits for the disk.

use std::io::Cursor;
use std::sync::Arc;

use api::{Export, JobResult, Spool};
use base::CallToken;
use proto::{Code, Error};
use sha2::{Digest, Sha256};

use super::disk::ProcessFiles;

/// What comes back.
pub(super) enum Mail {
    Log(replica::Event),
    Shard(u16, CallToken, JobResult),
}

pub(super) enum Job {
    Segment(wal::SegmentJob),
    Checkpoint(tree::CheckpointJob),
    Hash(replica::HashJob),
    Drop(tree::DropJob),
    Scrub(tree::ScrubJob),
    Grow(tree::GrowJob),
    Populate(tree::PopulateJob),
    Shard(u16, api::Job),
}

/// A job failed in a way that ends the process (law 8).
#[derive(Debug)]
pub(super) struct Fatal;

impl Job {
    pub fn name(&self) -> &'static str {
        match self {
            Job::Segment(_) => "segment",
            Job::Checkpoint(_) => "checkpoint",
            Job::Hash(_) => "compaction hash",
            Job::Drop(_) => "drop",
            Job::Scrub(_) => "scrub",
            Job::Grow(_) => "growth",
            Job::Populate(_) => "populate",
            Job::Shard(_, job) => match job.work {
                api::Work::Hash => "hash",
                api::Work::HashKv { .. } => "hash of keys",
                api::Work::Snapshot => "snapshot",
                api::Work::Read { .. } => "snapshot read",
            },
        }
    }

    /// Writes may have to wait for it.
    pub fn is_awaited(&self) -> bool {
        matches!(self, Job::Segment(_) | Job::Checkpoint(_) | Job::Grow(_))
    }

    /// What the server does with each.
    pub fn run(
        self,
        files: &ProcessFiles,
        readers: &Arc<tree::Readers>,
        published: &replica::Published,
        slots: &Arc<api::SpoolSlots>,
    ) -> Result<Option<Mail>, Fatal> {
        let event = match self {
            Job::Segment(job) => match job.run(files) {
                Ok(ready) => replica::Event::SegmentReady(ready),
                Err(error) if disk::is_no_space(&error) => replica::Event::SegmentRefused,
                Err(_) => return Err(Fatal),
            },
            Job::Checkpoint(job) => replica::Event::Checkpointed(job.run().map_err(|_| Fatal)?),
            Job::Hash(job) => replica::Event::CompactionHashed(job.run()),
            Job::Drop(job) => replica::Event::ColdDropped(job.run().map_err(|_| Fatal)?),
            Job::Scrub(job) => replica::Event::Scrubbed(job.run()),
            Job::Grow(job) => match job.run() {
                Ok(()) => return Ok(None),
                Err(error) if disk::is_no_space(&error) => replica::Event::GrowthRefused,
                Err(_) => return Err(Fatal),
            },
            Job::Populate(job) => {
                job.run();
                return Ok(None);
            }
            Job::Shard(shard, job) => {
                let result = job.work.run(readers, published, slots, export);
                return Ok(Some(Mail::Shard(shard, job.token, result)));
            }
        };
        Ok(Some(Mail::Log(event)))
    }
}

/// A snapshot in memory, where the server has a file.
struct Spooled {
    bytes: Vec<u8>,
    sha256: [u8; 32],
}

fn export(write: &dyn Fn(&mut dyn Export) -> Result<(), Error>) -> Result<Arc<dyn Spool>, Error> {
    let failed = |error: bbolt::Error| Error::new(Code::Unknown, error.to_string());
    let mut bytes = Cursor::new(Vec::new());
    let mut database = api::Database(bbolt::Writer::new(&mut bytes).map_err(failed)?);
    write(&mut database)?;
    database.0.finish().map_err(failed)?;
    let bytes = bytes.into_inner();
    let sha256 = Sha256::digest(&bytes).into();
    Ok(Arc::new(Spooled { bytes, sha256 }))
}

impl Spool for Spooled {
    fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    fn read(&self, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
        let from = offset as usize;
        Ok(self.bytes[from..(from + len).min(self.bytes.len())].to_vec())
    }
}
