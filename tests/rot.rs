//! A disk that forgets: the server finds it before somebody asks for what was lost.

mod common;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::client::Client;
use common::server::{Recipe, Server};
use proto::etcdserverpb::PutRequest;

const KEYS: u32 = 200;
const VALUE_BYTES: usize = 900;
/// The store has some hundred pages, of which 16 are read each second.
const PATIENCE: Duration = Duration::from_secs(120);

fn data_file(dir: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    let (dirs, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let found = files.into_iter().find(|path| path.file_name().is_some_and(|name| name == "data"));
    found.or_else(|| dirs.iter().find_map(|dir| data_file(dir)))
}

fn waits_for(mut condition: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    false
}

/// Every page is read back while all is well; one bit of one value then ends the server, with a line that says where.
#[test]
fn a_bit_that_flips_on_the_disk_is_found_though_nobody_reads_it() {
    let Some(binary) = common::ours() else { return };
    let mut server = Server::start(Recipe::new(&binary));
    let value = |number: u32| vec![b'a' + (number % 26) as u8; VALUE_BYTES];
    common::run(async {
        let mut client = Client::connect(&server.endpoint).await;
        for number in 0..KEYS {
            let key = format!("key-{number:04}").into_bytes();
            client
                .kv
                .put(PutRequest { key, value: value(number), ..Default::default() })
                .await
                .expect("a put");
        }
    });
    assert!(server.terminate(Duration::from_secs(30)), "its last checkpoint has all of them");
    server.restart().expect("all is well");
    assert!(waits_for(|| server.last_lines().contains("read back all pages")), "{}", server.last_lines());
    assert!(server.terminate(Duration::from_secs(30)));

    let path = data_file(&server.dir).expect("the server has a data file");
    let bytes = std::fs::read(&path).expect("the data file");
    let value = value(KEYS / 2);
    let found = bytes.windows(VALUE_BYTES).position(|window| window == value);
    let offset = found.expect("values stand in the file as they are") + VALUE_BYTES / 2;
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("the data file");
    file.write_all_at(&[bytes[offset] ^ 16], offset as u64).expect("one byte");
    drop(file);

    server.restart().expect("a start reads no leaf");
    assert!(waits_for(|| server.has_ended()), "{}", server.last_lines());
    let page = offset / 4096;
    let last = server.last_lines();
    assert!(last.contains("the file data is damaged"), "{last}");
    assert!(last.contains(&format!("page {page}, at offset {}", page * 4096)), "{page}: {last}");
}
