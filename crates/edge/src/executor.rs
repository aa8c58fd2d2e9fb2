//! The edge's thread: a glommio executor that accepts, reads, answers and writes. The only module that knows glommio.
//!
//! Invariants: at most `EDGE_CONNECTIONS` connections; every wait on a client has a time-out; answers leave in the
//! order of requests, all of one read in one write. No file is read here.
//!
//! glommio maps three rings and registers `io_memory` in each; memory that a predecessor locked is released late, so
//! making the executor is tried again on ENOMEM.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base::limits::{
    EDGE_BODY_TIMEOUT_MS, EDGE_CONNECTIONS, EDGE_HEAD_TIMEOUT_MS, EDGE_IDLE_TIMEOUT_MS, EDGE_WRITE_TIMEOUT_MS,
};
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};
use glommio::{GlommioError, LocalExecutor, LocalExecutorBuilder, Placement};

use crate::access::Access;
use crate::answer::Answers;
use crate::mailbox::Handle;
use crate::request::{Parser, Step, Waiting};
use crate::response::Framing;
use crate::route::{Surface, body_plan};
use crate::state::State;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    Tcp(SocketAddr),
    /// A socket file; a stale one is replaced.
    Unix(PathBuf),
}

/// One listener of the edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub bind: Bind,
    pub surface: Surface,
}

/// How the edge serves.
#[derive(Clone, Debug)]
pub struct Options {
    pub listen: Vec<Listen>,
    pub access: Access,
    /// --enable-grpc-gateway.
    pub gateway: bool,
    /// The longest read of a health check, ms: etcd's 5 s plus two election timeouts.
    pub request_timeout_ms: u64,
    /// How long a clean stop waits for answers under way, ms.
    pub stop_grace_ms: u64,
    pub timeouts: Timeouts,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            listen: Vec::new(),
            access: Access::default(),
            gateway: true,
            request_timeout_ms: 7000,
            stop_grace_ms: 1000,
            timeouts: Timeouts::default(),
        }
    }
}

/// How long a client may take, ms; the defaults are the limits of `base`.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    pub idle_ms: u64,
    pub head_ms: u64,
    pub body_ms: u64,
    pub write_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            idle_ms: EDGE_IDLE_TIMEOUT_MS,
            head_ms: EDGE_HEAD_TIMEOUT_MS,
            body_ms: EDGE_BODY_TIMEOUT_MS,
            write_ms: EDGE_WRITE_TIMEOUT_MS,
        }
    }
}

/// Why the edge did not start: one line that says what, where and what to do.
#[derive(Debug)]
pub struct StartError {
    what: String,
    source: io::Error,
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.source)
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// The running edge. Dropping it stops it without waiting.
pub struct Edge {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
    addresses: Vec<Option<SocketAddr>>,
}

impl Edge {
    /// For other threads: hand over sockets, stop.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The bound address of each listener, in the order of the options; `None` for socket files.
    pub fn addresses(&self) -> &[Option<SocketAddr>] {
        &self.addresses
    }

    /// Stops and waits for the thread to end. `Err` when it had panicked.
    pub fn stop(mut self) -> std::thread::Result<()> {
        self.handle.stop();
        self.thread.take().map_or(Ok(()), JoinHandle::join)
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.handle.stop();
    }
}

/// Binds the listeners on the caller's thread, so that a port in use is an error here, and starts the edge's thread.
pub fn start(options: Options, state: Arc<dyn State>) -> Result<Edge, StartError> {
    let mut sockets = Vec::new();
    let mut addresses = Vec::new();
    for listen in &options.listen {
        let (socket, address) = listen_on(&listen.bind).map_err(|source| StartError {
            what: match &listen.bind {
                Bind::Tcp(address) => format!("listen tcp {address}"),
                Bind::Unix(path) => format!("listen unix {}", path.display()),
            },
            source,
        })?;
        sockets.push((socket, listen.surface));
        addresses.push(address);
    }
    let handle = Handle::default();
    let inside = handle.clone();
    let (started, outcome) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("edge".into())
        .spawn(move || {
            let executor = match make() {
                Ok(executor) => executor,
                Err(error) => {
                    inside.stop();
                    drop(started.send(Err(error)));
                    return;
                }
            };
            drop(started.send(Ok(())));
            executor.run(serve(options, state, sockets, inside));
        })
        .map_err(|source| StartError { what: "start the edge's thread".into(), source })?;
    // A sender that is gone without a word is a thread that panicked.
    let outcome = outcome.recv().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")));
    match outcome {
        Ok(()) => Ok(Edge { handle, thread: Some(thread), addresses }),
        Err(source) => Err(StartError { what: explain(&source), source }),
    }
}

fn explain(error: &io::Error) -> String {
    let advice = match error.raw_os_error() {
        Some(libc::ENOMEM) => {
            "; raise the limit of locked memory (ulimit -l, LimitMEMLOCK=) to 1 MiB or more"
        }
        Some(libc::EPERM | libc::ENOSYS) => {
            "; io_uring is refused: allow it in the container's seccomp profile and set \
             kernel.io_uring_disabled=0"
        }
        _ => "",
    };
    format!("start the executor of the edge{advice}")
}

/// The executor, tried for two seconds while locked memory of a predecessor may still be on its way back.
fn make() -> io::Result<LocalExecutor> {
    for attempt in 0.. {
        let builder = LocalExecutorBuilder::new(Placement::Unbound).name("edge").io_memory(64 << 10);
        match builder.make() {
            Ok(executor) => return Ok(executor),
            Err(error) => {
                let error = plain(error);
                if error.raw_os_error() != Some(libc::ENOMEM) || attempt == 20 {
                    return Err(error);
                }
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    unreachable!("the loop ends by returning")
}

fn plain<T>(error: GlommioError<T>) -> io::Error {
    match error {
        GlommioError::IoError(error) => error,
        GlommioError::EnhancedIoError { source, .. } => source,
        other => io::Error::other(other.to_string()),
    }
}

fn listen_on(bind: &Bind) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
    match bind {
        Bind::Tcp(address) => {
            let listener = StdTcpListener::bind(address)?;
            let address = listener.local_addr()?;
            Ok((listener.into(), Some(address)))
        }
        Bind::Unix(path) => {
            // Go's listener removes a stale socket file as well; nothing else is removed.
            use std::os::unix::fs::FileTypeExt;
            if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
                std::fs::remove_file(path)?;
            }
            Ok((StdUnixListener::bind(path)?.into(), None))
        }
    }
}

/// What all connections of the thread share.
struct Shared {
    options: Options,
    state: Arc<dyn State>,
    handle: Handle,
    connections: Cell<usize>,
    /// Requests between their last byte and their answer's last byte.
    busy: Cell<usize>,
}

async fn serve(options: Options, state: Arc<dyn State>, sockets: Vec<(OwnedFd, Surface)>, handle: Handle) {
    let shared = Rc::new(Shared { options, state, handle, connections: Cell::new(0), busy: Cell::new(0) });
    // Dropped at the end of this function: that cancels them, and closes the listeners.
    let mut accepting = Vec::new();
    for (socket, surface) in sockets {
        accepting.push(glommio::spawn_local(accept(shared.clone(), socket, surface)));
    }
    while let Some(arrival) = shared.handle.next().await {
        // SAFETY: the descriptor is owned by the arrival and given up here.
        let stream = unsafe { TcpStream::from_raw_fd(arrival.socket.into_raw_fd()) };
        adopt(&shared, stream, arrival.read, arrival.surface);
    }
    drop(accepting);
    let mut left_ms = shared.options.stop_grace_ms;
    while shared.busy.get() > 0 && left_ms > 0 {
        glommio::timer::sleep(Duration::from_millis(left_ms.min(10))).await;
        left_ms -= left_ms.min(10);
    }
}

async fn accept(shared: Rc<Shared>, socket: OwnedFd, surface: Surface) {
    // SAFETY: the descriptor is owned here and given up to the listener, which closes it.
    let listener = unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) };
    loop {
        match listener.accept().await {
            Ok(stream) => adopt(&shared, stream, Vec::new(), surface),
            Err(error) => {
                // Out of descriptors, or the peer has gone: neither is a reason to spin.
                tracing::warn!(error = %plain(error), "failed to accept an HTTP connection");
                glommio::timer::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn adopt(shared: &Rc<Shared>, stream: TcpStream, read: Vec<u8>, surface: Surface) {
    if shared.connections.get() >= EDGE_CONNECTIONS {
        tracing::warn!(limit = EDGE_CONNECTIONS, "closing an HTTP connection: too many");
        return;
    }
    let counted = Counted::new(shared.clone(), |shared| &shared.connections);
    let task = connection(shared.clone(), stream, read, surface, counted);
    glommio::spawn_local(task).detach();
}

/// Counts itself as long as it lives.
struct Counted {
    shared: Rc<Shared>,
    which: fn(&Shared) -> &Cell<usize>,
}

impl Counted {
    fn new(shared: Rc<Shared>, which: fn(&Shared) -> &Cell<usize>) -> Counted {
        which(&shared).update(|n| n + 1);
        Counted { shared, which }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.which)(&self.shared).update(|n| n - 1);
    }
}

/// One connection, from its first byte to its end. Any error ends it: there is nobody to tell.
async fn connection(
    shared: Rc<Shared>,
    mut stream: TcpStream,
    read: Vec<u8>,
    surface: Surface,
    _counted: Counted,
) {
    // A socket that is not TCP (a socket file's) has no such option.
    let _ = stream.set_nodelay(true);
    let mut parser = Parser::new(body_plan);
    parser.feed(&read);
    drop(read);
    let mut buffer = vec![0; 16 << 10];
    // When the wait under way began: bytes that trickle in do not extend it.
    let mut since = (Waiting::Idle, Instant::now());
    loop {
        let (output, next) = answer_all(&shared, &mut parser, surface).await;
        if !output.is_empty() {
            since.1 = Instant::now();
            let wait = Duration::from_millis(shared.options.timeouts.write_ms);
            let sent = within(wait, async { stream.write_all(&output).await.and(stream.flush().await) });
            if !matches!(sent.await, Some(Ok(()))) {
                return;
            }
        }
        match next {
            Next::Again => continue,
            Next::Close => return linger(&mut stream, &mut buffer).await,
            Next::Read if shared.handle.stopping() => return,
            Next::Read => {}
        }
        if parser.waiting() != since.0 {
            since = (parser.waiting(), Instant::now());
        }
        let timeouts = shared.options.timeouts;
        let wait = Duration::from_millis(match since.0 {
            Waiting::Idle => timeouts.idle_ms,
            Waiting::Head => timeouts.head_ms,
            Waiting::Body => timeouts.body_ms,
        });
        let Some(wait) = wait.checked_sub(since.1.elapsed()) else { return };
        match within(wait, stream.read(&mut buffer)).await {
            Some(Ok(count)) if count > 0 => parser.feed(&buffer[..count]),
            _ => return,
        }
    }
}

/// What a connection does after its answers have left.
enum Next {
    Read,
    /// More whole requests are buffered.
    Again,
    Close,
}

/// Answers the whole requests in the parser, up to one output's worth. The bytes to send, and what then.
async fn answer_all(shared: &Rc<Shared>, parser: &mut Parser, surface: Surface) -> (Vec<u8>, Next) {
    let answers = Answers {
        state: &*shared.state,
        access: &shared.options.access,
        gateway: shared.options.gateway,
        timeout: Duration::from_millis(shared.options.request_timeout_ms),
    };
    let mut output = Vec::new();
    loop {
        match parser.step() {
            Step::More => return (output, Next::Read),
            Step::Continue => output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n"),
            Step::Refused(bytes) => {
                output.extend_from_slice(&bytes);
                return (output, Next::Close);
            }
            Step::Request(request) => {
                let _busy = Counted::new(shared.clone(), |shared| &shared.busy);
                let framing = Framing {
                    http_1_0: request.http_1_0,
                    keep_alive: request.keep_alive,
                    head: request.method == "HEAD",
                };
                let response = answers.answer(surface, *request).await;
                let keep = framing.keep_alive && !response.close && !shared.handle.stopping();
                response.encode(Framing { keep_alive: keep, ..framing }, unix_s(), &mut output);
                if !keep {
                    return (output, Next::Close);
                }
                // A pipeline of large answers must not pile up: send what there is first.
                if output.len() >= base::limits::OUTPUT_BYTES_PER_CONNECTION {
                    return (output, Next::Again);
                }
            }
        }
    }
}

/// Ends a connection so that the peer reads the answer before it sees a reset: no more is sent, and what it still
/// sends is thrown away for a short time.
async fn linger(stream: &mut TcpStream, buffer: &mut [u8]) {
    // SAFETY: the descriptor is open as long as `stream` lives; shutdown touches no memory.
    unsafe { libc::shutdown(stream.as_raw_fd(), libc::SHUT_WR) };
    let drained = within(Duration::from_millis(500), async {
        let mut left = base::limits::EDGE_DRAIN_BYTES;
        while let Ok(count) = stream.read(buffer).await {
            if count == 0 || count > left {
                break;
            }
            left -= count;
        }
    });
    let _ = drained.await;
}

/// `future`'s output, or `None` after `wait`.
pub(crate) async fn within<T>(wait: Duration, future: impl Future<Output = T>) -> Option<T> {
    glommio::timer::timeout(wait, async { Ok(future.await) }).await.ok()
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
