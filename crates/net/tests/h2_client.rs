//! The `h2` crate as client, in memory: a judge that isn't ours.

mod common;

use base::Random;
use bytes::Bytes;
use common::*;
use h2::client;
use http::{Request, Response};
use mainstay_net::{Connection, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

/// Drives our layer over one end of a pipe until the client goes away or the connection is drained.
async fn serve(mut socket: DuplexStream, drain_after: usize) -> Recorder {
    let mut server = Connection::new(Limits::default().into(), &METHODS, 0);
    let mut calls = Recorder::default();
    let mut buffer = vec![0; 10_000];
    loop {
        loop {
            let batch = server.output().take();
            if batch.is_empty() {
                server.output().give_back(batch, 0);
                break;
            }
            let mut iov = Vec::new();
            batch.gather(&mut iov);
            for slice in &iov {
                if socket.write_all(slice).await.is_err() {
                    return calls;
                }
            }
            let sent = batch.len();
            server.output().give_back(batch, sent);
            server.outbound().drain_writable(&mut Vec::new());
        }
        if server.is_drained() {
            return calls;
        }
        let n = socket.read(&mut buffer).await.unwrap_or(0);
        if n == 0 {
            server.disconnected(&mut calls);
            return calls;
        }
        server.receive(&buffer[..n], 0, &mut calls).expect("h2 does nothing wrong");
        if calls.messages.len() >= drain_after {
            server.drain(0);
        }
    }
}

fn request(path: &str) -> Request<()> {
    let builder = Request::post(format!("http://localhost{path}"));
    builder.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap()
}

/// Body and trailers' status.
async fn read(response: Response<h2::RecvStream>) -> (Vec<u8>, String) {
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"application/grpc".parse().unwrap())
    );
    let mut body = response.into_body();
    let mut data = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.unwrap();
        data.extend_from_slice(&chunk);
        body.flow_control().release_capacity(chunk.len()).unwrap();
    }
    let trailers = body.trailers().await.unwrap().expect("trailers");
    (data, trailers["grpc-status"].to_str().unwrap().to_string())
}

/// Runs a client against our server; the connections live as long as the future.
fn run<F: Future<Output = ()>>(drain_after: usize, client: impl FnOnce(client::SendRequest<Bytes>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (near, far) = duplex(30_000);
        let server = tokio::spawn(serve(far, drain_after));
        let (sender, connection) = client::handshake(near).await.unwrap();
        let connection = tokio::spawn(connection);
        client(sender).await;
        connection.await.unwrap().unwrap();
        server.await.unwrap();
    });
}

#[test]
fn unary_calls_of_many_sizes_at_once() {
    run(usize::MAX, |sender| async move {
        let mut random = Random::new(2);
        let mut calls = Vec::new();
        for i in 0..100 {
            let mut message =
                vec![0; if i % 10 == 0 { random.below(300_000) } else { random.below(2000) } as usize];
            random.fill(&mut message);
            let mut sender = sender.clone().ready().await.unwrap();
            calls.push(tokio::spawn(async move {
                let (response, mut body) = sender.send_request(request("/t.S/Echo"), false).unwrap();
                body.send_data(prefixed(&message).into(), true).unwrap();
                let (data, status) = read(response.await.unwrap()).await;
                assert!(data == prefixed(&message));
                assert_eq!(status, "0");
            }));
        }
        for call in calls {
            call.await.unwrap();
        }
    });
}

#[test]
fn a_stream_and_a_reset_and_a_refusal() {
    run(usize::MAX, |sender| async move {
        let mut sender = sender.ready().await.unwrap();
        let (response, mut body) = sender.send_request(request("/t.S/Stream"), false).unwrap();
        let (held, held_body) = sender.send_request(request("/t.S/Hold"), false).unwrap();
        let mut expected = Vec::new();
        for i in 0..200u8 {
            let message = prefixed(&vec![i; usize::from(i) * 20]);
            expected.extend_from_slice(&message);
            body.send_data(message.into(), i == 199).unwrap();
        }
        let (data, status) = read(response.await.unwrap()).await;
        assert!(data == expected && status == "0");
        drop((held, held_body));

        let (response, _) = sender.send_request(request("/t.S/Nope"), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "12");
        assert_eq!(response.headers()["grpc-message"], "unknown method Nope for service t.S");
        assert!(response.into_body().is_end_stream());

        let mut odd = request("/t.S/Echo");
        odd.headers_mut().insert("content-type", "text/html".parse().unwrap());
        let (response, _) = sender.send_request(odd, true).unwrap();
        assert_eq!(response.await.unwrap().status(), 415);
    });
}

#[test]
fn a_graceful_end_is_understood() {
    run(3, |sender| async move {
        let mut sender = Some(sender);
        let mut done = 0;
        while let Some(ready) = sender.take() {
            let Ok(mut ready) = ready.ready().await else { break };
            let Ok((response, mut body)) = ready.send_request(request("/t.S/Echo"), false) else { break };
            body.send_data(prefixed(b"x").into(), true).unwrap();
            match response.await {
                Ok(response) => done += usize::from(read(response).await.1 == "0"),
                Err(error) => {
                    assert!(error.is_go_away() || error.is_io(), "{error}");
                    break;
                }
            }
            sender = Some(ready);
        }
        assert!((3..=5).contains(&done), "{done} calls were served");
    });
}
