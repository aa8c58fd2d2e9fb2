//! A server process under test: started as etcd is, ready when it says so, stopped by its pid.
//!
//! Both servers of a comparison are started by the same code with the same flags. Each has a fresh data directory
//! and free ports on loopback; both go when the value is dropped.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::http2::{Answers, Connection, KEEP_ALL, Message, Method};
use crate::message::{self, Range};
use crate::probe::Usage;
use crate::sys;

/// The line of a member that serves, as etcd's own harnesses wait for it.
const READY: &str = "ready to serve client requests";
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
const FIRST_READ_TIMEOUT: Duration = Duration::from_secs(120);
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);
/// Lines of output kept to explain a failure.
const LINES_KEPT: usize = 30;
/// Above what any workload writes: the default of 2 GiB would stop the faster server earlier. Bytes.
const QUOTA_BYTES: u64 = 16 << 30;

/// How servers are started; the same for both of a comparison.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Where data directories are made.
    pub dir: PathBuf,
    /// CPUs to run on; empty: all.
    pub cpus: Vec<usize>,
    /// Flags given besides those that every server gets.
    pub extra: Vec<String>,
}

/// A running member of a cluster of one.
pub struct Server {
    binary: PathBuf,
    setting: Setting,
    home: PathBuf,
    client: SocketAddr,
    peer: SocketAddr,
    child: Option<Running>,
}

struct Running {
    child: Child,
    lines: Arc<Mutex<VecDeque<String>>>,
    ready: mpsc::Receiver<()>,
}

impl Server {
    /// Starts `binary` on an empty directory and waits until it serves.
    pub fn start(binary: &Path, setting: &Setting) -> Result<Server, String> {
        let home = fresh_dir(&setting.dir).map_err(|error| format!("a directory for data: {error}"))?;
        let [client, peer] = free_ports().map_err(|error| format!("free ports on loopback: {error}"))?;
        let mut server =
            Server { binary: binary.to_owned(), setting: setting.clone(), home, client, peer, child: None };
        server.spawn()?;
        server.wait_ready()?;
        Ok(server)
    }

    pub fn address(&self) -> SocketAddr {
        self.client
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a server that was not stopped").child.id()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.home.join("data")
    }

    pub fn usage(&self) -> Result<Usage, String> {
        Usage::of(self.pid()).map_err(|error| self.explain(&format!("reading its usage: {error}")))
    }

    /// Stops the server (asking it to, or killing it), starts it again on the same data, and returns the time from
    /// the start of the process to the answer of the first linearizable range of `key`, which must be there.
    pub fn restart(&mut self, kill: bool, key: &[u8]) -> Result<Duration, String> {
        self.stop(kill)?;
        let begun = Instant::now();
        self.spawn()?;
        loop {
            match first_read(self.client, key) {
                Ok(true) => break,
                Ok(false) => return Err(self.explain("a key is missing after the restart")),
                Err(_)
                    if begun.elapsed() < FIRST_READ_TIMEOUT && !sys::interrupted() && !self.has_exited() =>
                {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(self.explain(&format!("no read after the restart: {error}"))),
            }
        }
        let taken = begun.elapsed();
        self.wait_ready()?;
        Ok(taken)
    }

    /// Asks the process to end and waits; kills it when it doesn't, or at once when told so.
    pub fn stop(&mut self, kill: bool) -> Result<(), String> {
        let Some(mut running) = self.child.take() else { return Ok(()) };
        let failed = |error: io::Error| format!("stopping a server: {error}");
        if !kill {
            sys::terminate(running.child.id()).map_err(failed)?;
            let deadline = Instant::now() + STOP_TIMEOUT;
            while Instant::now() < deadline {
                if running.child.try_wait().map_err(failed)?.is_some() {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        running.child.kill().map_err(failed)?;
        running.child.wait().map_err(failed)?;
        Ok(())
    }

    fn spawn(&mut self) -> Result<(), String> {
        let (reader, writer) = io::pipe().map_err(|error| format!("a pipe: {error}"))?;
        let mut command = Command::new(&self.binary);
        let (client, peer) = (format!("http://{}", self.client), format!("http://{}", self.peer));
        command
            .args(["--name", "bench", "--data-dir"])
            .arg(self.data_dir())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("bench={peer}")])
            .arg(format!("--quota-backend-bytes={QUOTA_BYTES}"))
            .args(&self.setting.extra)
            .stdin(Stdio::null())
            .stdout(writer.try_clone().map_err(|error| format!("a pipe: {error}"))?)
            .stderr(writer);
        // Variables of an installation must not configure only one of the two.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("ETCD_")) {
                command.env_remove(name);
            }
        }
        sys::prepare_child(&mut command, self.setting.cpus.clone());
        let child =
            command.spawn().map_err(|error| format!("starting {}: {error}", self.binary.display()))?;
        // The command holds the writing end; the reader must see the end when the child is gone.
        drop(command);
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let (sender, ready) = mpsc::channel();
        let kept = lines.clone();
        std::thread::spawn(move || read_lines(reader, &kept, &sender));
        self.child = Some(Running { child, lines, ready });
        Ok(())
    }

    fn wait_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let running = self.child.as_ref().expect("it was just spawned");
            match running.ready.recv_timeout(Duration::from_millis(50)) {
                Ok(()) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.explain("it ended, or closed its output, before it served"));
                }
                Err(RecvTimeoutError::Timeout) if sys::interrupted() => return Err("interrupted".to_owned()),
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.explain(&format!("no line {READY:?} within a minute")));
                }
            }
        }
    }

    fn has_exited(&mut self) -> bool {
        self.child.as_mut().is_none_or(|running| !matches!(running.child.try_wait(), Ok(None)))
    }

    /// The problem with the last lines that the server printed.
    pub fn explain(&self, problem: &str) -> String {
        let mut text = format!("{}: {problem}", self.binary.display());
        if let Some(running) = &self.child {
            let lines = running.lines.lock().expect("no thread panics holding lines");
            for line in lines.iter() {
                text.push_str("\n    ");
                text.push_str(line);
            }
        }
        text
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Errors here have nobody to go to; the child also ends with the bench.
        let _ = self.stop(false);
        let _ = fs::remove_dir_all(&self.home);
    }
}

fn read_lines(reader: impl Read, kept: &Mutex<VecDeque<String>>, ready: &mpsc::Sender<()>) {
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if text.contains(READY) {
            // Nobody listens any more after the first: that is fine.
            let _ = ready.send(());
        }
        let mut kept = kept.lock().expect("no thread panics holding lines");
        if kept.len() == LINES_KEPT {
            kept.pop_front();
        }
        kept.push_back(text);
        line.clear();
    }
}

fn fresh_dir(parent: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(parent)?;
    for number in 0.. {
        let dir = parent.join(format!("mainstay-bench-{}-{number}", std::process::id()));
        match fs::create_dir(&dir) {
            Ok(()) => {
                fs::create_dir(dir.join("data"))?;
                // As installers leave it; etcd warns otherwise.
                use std::os::unix::fs::PermissionsExt;
                fs::set_permissions(dir.join("data"), fs::Permissions::from_mode(0o700))?;
                return Ok(dir);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    unreachable!("numbers don't end")
}

/// Two ports that were free just now, held together so that they differ.
fn free_ports() -> io::Result<[SocketAddr; 2]> {
    let any = (Ipv4Addr::LOCALHOST, 0);
    let listeners = [TcpListener::bind(any)?, TcpListener::bind(any)?];
    Ok([listeners[0].local_addr()?, listeners[1].local_addr()?])
}

/// What a binary says of its version: the first line of `--version`.
pub fn version_of(binary: &Path) -> Result<String, String> {
    let failed = |error: io::Error| format!("{} --version: {error}", binary.display());
    let mut child = Command::new(binary)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let deadline = Instant::now() + VERSION_TIMEOUT;
    while child.try_wait().map_err(failed)?.is_none() {
        if Instant::now() > deadline {
            child.kill().map_err(failed)?;
            child.wait().map_err(failed)?;
            return Err(format!("{} --version did not end", binary.display()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or("no version").trim().to_owned())
}

/// One linearizable range of `key` on a connection of its own: whether it was found.
fn first_read(address: SocketAddr, key: &[u8]) -> io::Result<bool> {
    struct Answer(Option<(u32, bool)>, bool);
    impl Answers for Answer {
        fn message(&mut self, _call: u32, message: Message<'_>) {
            self.1 = message::count(message.bytes) == 1;
        }
        fn end(&mut self, _call: u32, code: u32, _text: &str) {
            self.0 = Some((code, self.1));
        }
    }
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut connection = Connection::new(&address.to_string());
    let range = Range { key, ..Range::default() };
    connection.call(Method::Range, 0, KEEP_ALL, true, |out| range.encode(out));
    let mut input = Vec::new();
    let mut answer = Answer(None, false);
    loop {
        stream.write_all(&connection.output)?;
        connection.output.clear();
        match answer.0 {
            Some((0, found)) => return Ok(found),
            Some((code, _)) => return Err(io::Error::other(format!("gRPC status {code}"))),
            None => {}
        }
        let mut buffer = [0; 4096];
        let received = stream.read(&mut buffer)?;
        if received == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        input.extend_from_slice(&buffer[..received]);
        let used = connection.receive(&input, &mut answer).map_err(|broken| io::Error::other(broken.0))?;
        input.drain(..used);
    }
}

/// A directory on a real disk: `asked` if given (with a warning when it lies in memory), else the first of the usual
/// places that doesn't.
pub fn data_parent(asked: Option<&Path>) -> Result<(PathBuf, Option<String>), String> {
    if let Some(dir) = asked {
        fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let in_memory = sys::is_in_memory(dir).unwrap_or(false);
        let warning =
            in_memory.then(|| format!("{} lies in memory: syncing costs nothing there", dir.display()));
        return Ok((dir.to_owned(), warning));
    }
    let usual = [std::env::temp_dir(), PathBuf::from("/var/tmp"), PathBuf::from("bench-results")];
    for dir in usual {
        if fs::create_dir_all(&dir).is_ok() && !sys::is_in_memory(&dir).unwrap_or(true) {
            return Ok((dir, None));
        }
    }
    Err("no directory on a real disk was found for the servers' data: give one with --dir".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_fresh_and_ports_differ() {
        let parent = tempfile::tempdir().unwrap();
        let [first, second] = [0, 0].map(|_| fresh_dir(parent.path()).unwrap());
        assert_ne!(first, second);
        assert!(first.join("data").is_dir());
        let [client, peer] = free_ports().unwrap();
        assert_ne!(client.port(), peer.port());
    }

    /// One test: a script must not be run while another thread may hold it open between its fork and its exec.
    #[test]
    fn servers_are_told_apart_by_what_they_print_and_stopped_by_pid() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().unwrap();
        let script = |name: &str, text: &str| {
            let path = parent.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let setting = Setting { dir: parent.path().join("data"), cpus: vec![], extra: vec![] };
        let fails = script("fails", "echo one line\necho two >&2\nexit 3");
        let error = Server::start(&fails, &setting).err().expect("it does not serve");
        assert!(error.contains("one line") && error.contains("two"), "{error}");
        assert_eq!(version_of(&fails).unwrap(), "one line");
        let missing = Server::start(&parent.path().join("missing"), &setting).err().expect("no such file");
        assert!(missing.contains("missing"), "{missing}");

        let serves = script("serves", "echo 'now ready to serve client requests'\nexec sleep 60");
        let mut server = Server::start(&serves, &setting).unwrap();
        let pid = server.pid();
        assert!(server.usage().unwrap().resident > 0);
        server.stop(false).unwrap();
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        drop(server);
        assert_eq!(fs::read_dir(&setting.dir).unwrap().count(), 0, "directories go with their servers");
    }
}
