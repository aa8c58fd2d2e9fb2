//! Every limit of the process: name, unit, and the reason for its value. A queue, buffer or table that can grow
//! and does not name its limit here is a bug.

/// Frames, pages and log blocks are padded to this, bytes. The page size of the tree and the largest logical block
/// of the disks that we meet.
pub const BLOCK_BYTES: usize = 4096;

/// One log segment, bytes: large enough that recycling is rare, small enough that zeroing one is a short job.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// Segments kept ready, zeroed and named, beyond the one in use: law 8's reserve of two, and one for the start that comes
/// next, which writes into no segment of this life and may find the disk full.
pub const SEGMENTS_READY: usize = 3;
/// Released segments kept to be used again instead of zeroing new ones: as many as the log fills between two
/// checkpoints at DIRTY_SOFT_BYTES. More than that are removed.
pub const LOG_SPARE_SEGMENTS: usize = 4;
/// A log segment that a start accepts, bytes: recovery holds one whole segment in memory.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Durable-write batches in flight: at 8 the disk gives most of its bandwidth and a torn tail stays short.
pub const LOG_BATCHES_IN_FLIGHT: usize = 8;
/// One log batch, bytes: bounds the registered buffers (8 x 1 MiB) and the time of one write. A record above it
/// spans several batches.
pub const LOG_BATCH_BYTES: usize = 1 << 20;

/// The mapping grows by this, bytes; no page run spans two chunks, so it also bounds the largest value.
pub const MAPPING_CHUNK_BYTES: u64 = 64 << 20;
/// Chunks in the table of a mapping: 64 Ki x 64 MiB = 4 TiB.
pub const MAPPING_CHUNKS: usize = 64 << 10;
/// Kept free in the data file for alarm, delete, compaction and checkpoint (law 8), bytes.
pub const DATA_RESERVE_BYTES: u64 = 64 << 20;
/// Places where a mapping of the file and anonymous memory meet within the chunks of the process, each of which costs the
/// kernel up to two mappings: well below the 65,530 of a process.
pub const MAPPING_SPLITS: usize = 16 << 10;
/// Free pages made private memory ahead of their use, at once: 32 MiB, what the heaviest writing takes in between.
pub const POPULATE_PAGES_MAX: u64 = 8192;
/// Free pages of each run length that were in use a moment ago and are kept apart to be used first: 16 MiB of each, so that
/// one length cannot keep a large part of the file from all others; what comes beyond them is free for any.
pub const HOT_PAGES: usize = 4096;
/// Passes of one defragmentation: one that writes went on beside may leave something above its line.
pub const DEFRAGMENT_PASSES: u32 = 4;
/// Dirty pages above which the checkpoint's bandwidth rises, bytes.
pub const DIRTY_SOFT_BYTES: u64 = 512 << 20;
/// Dirty pages above which proposals are refused until a checkpoint has ended, bytes.
pub const DIRTY_HARD_BYTES: u64 = 2 << 30;
/// Log that a restart would replay, bytes: above it the checkpoint's bandwidth rises.
pub const LOG_SOFT_BYTES: u64 = 512 << 20;
/// The same: above it proposals are refused until a checkpoint has ended. Recovery holds these entries in memory.
pub const LOG_HARD_BYTES: u64 = 4 << 30;
/// What a checkpoint writes in a second while nothing presses, bytes: leaves the device to the log's writes.
pub const CHECKPOINT_BYTES_PER_SECOND: u64 = 128 << 20;
/// The scrub leaves a start alone for this long, ms.
pub const SCRUB_DELAY_MS: u64 = 10_000;
/// Pages of the data file that the scrub reads back in a second, at least: a large file takes as many as
/// [`SCRUB_PASS_MS`] asks for. Some ten reads of the device each second, a thousandth of a core.
pub const SCRUB_PAGES_PER_SECOND: u32 = 16;
/// All pages are read back within about this, ms: a day.
pub const SCRUB_PASS_MS: u64 = 24 * 60 * 60 * 1000;
/// A small file is read back once in this, ms: an hour.
pub const SCRUB_REST_MS: u64 = 60 * 60 * 1000;
/// Segments of the log at which a checkpoint is due whatever they hold: each start of the process adds one.
pub const LOG_SEGMENTS_MAX: usize = 6;

/// Entries kept in memory for followers that lag; below them a snapshot is sent.
pub const RAFT_LOG_ENTRIES: usize = 16 << 10;
/// The same, bytes.
pub const RAFT_LOG_BYTES: usize = 64 << 20;
/// Proposals accepted and not yet applied; the next is answered "too many requests", as etcd does.
pub const PROPOSALS_IN_FLIGHT: usize = 5000;
/// The same, bytes of their entries: what a log that stands still keeps in memory. Above it the log core takes no
/// more from its rings.
pub const PROPOSAL_BYTES_IN_FLIGHT: usize = 64 << 20;
/// The same, bytes of page space that is reserved for them: the data file is that much longer than its content under
/// load. Room for over a thousand small puts, far more than a log write takes along.
pub const PROPOSAL_ROOM_BYTES: u64 = 128 << 20;
/// Slots of the ring that carries proposals from one shard to the log core.
pub const PROPOSAL_RING_SLOTS: usize = 4096;
/// Slots of the ring that carries outcomes and event batches back.
pub const OUTCOME_RING_SLOTS: usize = 8192;
/// Bytes of event batches that one shard may leave unread before it is marked as lagging.
pub const EVENT_RING_BYTES: usize = 64 << 20;
/// Threads that may pin snapshots: shards, helpers, export, hash.
pub const PIN_SLOTS: usize = 128;

/// Connections of one shard.
pub const CONNECTIONS_PER_SHARD: usize = 64 << 10;
/// One read from a socket, bytes: a provided buffer.
pub const RECEIVE_BUFFER_BYTES: usize = 16 << 10;
/// Provided receive buffers per shard (power of two): 16 MiB in all.
pub const RECEIVE_BUFFERS: u16 = 1024;
/// Output that a connection may hold unsent before its requests wait, bytes.
pub const OUTPUT_BYTES_PER_CONNECTION: usize = 1 << 20;
/// Slices of one vectored send: Linux's UIO_MAXIOV.
pub const SEND_SLICES: usize = 1024;
/// A header list after decoding, bytes. grpc-go takes 16 MiB; what clients of etcd send is a token and a few names.
pub const HEADER_LIST_BYTES: usize = 64 << 10;
/// Members of a gzip message: each costs a fresh inflater, whatever it holds. Writers make one.
pub const GZIP_MEMBERS_MAX: usize = 8;
/// HPACK dynamic table of a peer, bytes: the protocol's default; larger wishes are refused.
pub const HPACK_TABLE_BYTES: usize = 4096;
/// One HTTP/2 frame from a peer, bytes: the protocol's default, as grpc-go announces.
pub const FRAME_BYTES: usize = 16 << 10;
/// Flow-control window that we grant a stream and a connection, bytes: room for the largest request.
pub const RECEIVE_WINDOW_BYTES: u32 = 2 << 20;
/// Streams of a peer that it may reset within a second before the connection ends (CVE-2023-44487).
pub const RESETS_PER_SECOND: u32 = 400;
/// Control frames (ping, settings, empty data, window updates of nothing) within a second, likewise.
pub const CONTROL_FRAMES_PER_SECOND: u32 = 2000;
/// SETTINGS frames from a peer within a second: each may move every stream's window.
pub const SETTINGS_PER_SECOND: u32 = 100;
/// A header block before decoding, all its CONTINUATION frames together, bytes: Huffman text may be longer than the
/// list it decodes to.
pub const HEADER_BLOCK_BYTES: usize = 32 << 10;
/// CONTINUATION frames of one header block (CVE-2024-27316).
pub const CONTINUATIONS_PER_BLOCK: u32 = 32;
/// Open streams of one connection where no lower number was configured: a stream costs some 200 bytes.
pub const STREAMS_PER_CONNECTION: u32 = 128 << 10;
/// Unfinished gRPC messages of one connection, bytes together: a stream that passes it is failed. Room for 64 of the
/// largest requests, interleaved.
pub const ASSEMBLY_BYTES_PER_CONNECTION: usize = 128 << 20;
/// Answers of one connection that wait for its windows, bytes: above it new streams are refused (which is safe to
/// retry); open ones go on.
pub const BACKLOG_BYTES_PER_CONNECTION: usize = 64 << 20;
/// The same: above it the connection ends.
pub const BACKLOG_HARD_BYTES_PER_CONNECTION: usize = 256 << 20;
/// Unsent output above which a connection ends: only a peer that provokes control frames and reads none gets here.
pub const OUTPUT_HARD_BYTES_PER_CONNECTION: usize = 8 << 20;
/// A frame that we send, bytes, where the peer allows more than the protocol's default: keeps streams interleaved.
pub const SEND_FRAME_BYTES: usize = 64 << 10;
/// A peer has this long to send its connection preface, ms (grpc-go's connection timeout).
pub const PREFACE_TIMEOUT_MS: u64 = 120_000;
/// A client that was told the end of its connection must close it within this, ms.
pub const LINGER_MS: u64 = 3_000;
/// A peer has this long from its own settings on to acknowledge ours, ms. grpc-go waits without end: a client may be
/// suspended for a while.
pub const SETTINGS_ACK_TIMEOUT_MS: u64 = 180_000;
/// After the first GOAWAY of a graceful end we wait this long for the peer's ping answer, ms (grpc-go's).
pub const DRAIN_PING_TIMEOUT_MS: u64 = 5_000;
/// Pings that come too early before a connection ends with too_many_pings: grpc-go's two strikes.
pub const PING_STRIKES: u32 = 2;
/// Without open calls a client's pings must be this far apart, ms. grpc-go asks for two hours; but Kubernetes pings every
/// 30 s, and that must never be held against it.
pub const PING_IDLE_INTERVAL_MS: u64 = 20_000;
/// The highest --max-request-bytes: with all that stands around it a value must fit a chunk of the data file.
pub const REQUEST_BYTES_MAX: u64 = 48 << 20;
/// gRPC allows this above --max-request-bytes for one received message, bytes: etcd's overhead.
pub const GRPC_OVERHEAD_BYTES: usize = 512 << 10;

/// Levels of nested transactions, whatever --max-txn-ops allows (each level uses up at least one of those, 128 by
/// default). What a request may hold an entry of the log holds too, and both are decoded recursively.
pub const TXN_LEVELS: usize = 512;
/// A shard's working memory for one range answer, bytes; longer answers are produced window by window.
pub const RANGE_CHUNK_BYTES: usize = 256 << 10;
/// Events queued for one watcher, bytes, before it is sent back to catch up from history.
pub const WATCHER_QUEUE_BYTES: usize = 1 << 20;
/// Changes that one catch-up step of a watcher group may read.
pub const CATCH_UP_CHANGES: usize = 1000;
/// The same, bytes of matched events, after which the step ends with the revision that it is in.
pub const CATCH_UP_BYTES: usize = 1 << 20;
/// Answers queued on one watch or keep-alive stream, bytes, at which its client's requests are left unread until the
/// queue has drained: each has an answer, which is never dropped.
pub const STREAM_PAUSE_BYTES: usize = 1 << 20;
/// Renewals of one keep-alive stream that wait for the log core; above it the stream is not read. A client renews all
/// its leases on one stream.
pub const RENEWALS_PER_STREAM: u32 = 1024;
/// Watchers of one shard, about 200 bytes each; the next is refused. Above what a cluster's clients need, below what
/// one client could use to fill the memory.
pub const WATCHERS_PER_SHARD: usize = 1 << 20;
/// The highest revision, and the highest version of a key, that a store takes over from a file: as many again are left to
/// count on, so that no later write runs out of numbers.
pub const REVISION_MAX: i64 = 1 << 62;
/// Versions that one compaction step removes: a step stays far below a millisecond.
pub const COMPACTION_STEP_CHANGES: usize = 128;
/// A range that is produced piece by piece keeps the history that it reads for so long, ms; after that a compaction may
/// take it away, and the range ends with an error. Room for a list of 1 GiB at 20 MiB a second.
pub const HISTORY_HOLD_MS: u64 = 60_000;
/// Leases revoked each second after expiry, as etcd limits them.
pub const LEASE_REVOKES_PER_SECOND: usize = 1000;
/// Entries of the expiry queue that one call of the lease scan looks at: renewed leases are put back there, and a
/// burst of them must not hold up the log core (about a millisecond).
pub const LEASE_SCAN_ENTRIES: usize = 4096;
/// Leases in one checkpoint entry, as etcd batches them.
pub const LEASE_CHECKPOINT_BATCH: usize = 1000;
/// The longest TTL of a lease, seconds (etcd's MaxLeaseTTL).
pub const LEASE_TTL_MAX_S: i64 = 9_000_000_000;
/// Slow calls of one shard that are remembered between two looks at them: the log shows these and forgets the rest.
pub const SLOW_CALLS: usize = 64;
/// Log lines waiting for the log thread; above it lines are counted and dropped.
pub const LOG_LINES_QUEUED: usize = 8192;

/// Snapshots on their way to clients, each a copy of the whole state on the disk: clients that stop reading must not
/// fill it. One more is refused.
pub const SNAPSHOT_SPOOLS: usize = 8;

/// HTTP/1.1 connections of the edge; a probe or scraper above it is closed at once. Health checks, metrics and the
/// JSON gateway share them.
pub const EDGE_CONNECTIONS: usize = 1024;
/// Request line and headers of one HTTP/1.1 request, bytes.
pub const EDGE_HEAD_BYTES: usize = 64 << 10;
/// Header fields of one HTTP/1.1 request.
pub const EDGE_HEADERS: usize = 100;
/// A body that no route reads is drained up to this, bytes, so that keep-alive survives; above it the connection
/// ends after the answer, as Go's server does.
pub const EDGE_DRAIN_BYTES: usize = 256 << 10;
/// A request's head must be complete this long after its first byte, ms: slow-loris.
pub const EDGE_HEAD_TIMEOUT_MS: u64 = 30_000;
/// The same for its body.
pub const EDGE_BODY_TIMEOUT_MS: u64 = 60_000;
/// A connection without a request under way is closed after this, ms: longer than any sane scrape interval.
pub const EDGE_IDLE_TIMEOUT_MS: u64 = 300_000;
/// An answer must have left within this, ms: a client that does not read ends here.
pub const EDGE_WRITE_TIMEOUT_MS: u64 = 60_000;
/// Connections that shards handed over and the edge has not taken yet.
pub const EDGE_MAILBOX: usize = 4096;
/// Shards, when the number of cores alone would choose more: each costs a pin slot, a ring and its buffers.
pub const SHARDS_MAX: usize = 64;
/// Private memory that an idle store keeps when --memory-budget-bytes does not say otherwise, bytes: room for the pages
/// changed since the last two checkpoints, so that steady writing reuses memory; what is cold beyond it is given back.
pub const MEMORY_BUDGET_BYTES: u64 = 128 << 20;
