//! gRPC clients of one server.

use std::time::Duration;

use proto::etcdserverpb::auth_client::AuthClient;
use proto::etcdserverpb::cluster_client::ClusterClient;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::watch_client::WatchClient;
use proto::etcdserverpb::{
    PutRequest, PutResponse, RangeRequest, RangeResponse, WatchCreateRequest, WatchProgressRequest,
    WatchRequest, WatchResponse, watch_request,
};
use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::Stream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// Longer than any honest answer takes; a server that hangs fails the test instead of stopping it.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// One connection, and a client of each service on it.
#[derive(Clone)]
pub struct Client {
    pub kv: KvClient<Channel>,
    pub watch: WatchClient<Channel>,
    pub lease: LeaseClient<Channel>,
    pub cluster: ClusterClient<Channel>,
    pub maintenance: MaintenanceClient<Channel>,
    pub auth: AuthClient<Channel>,
}

/// No limit of the client's may hide one of the server's.
macro_rules! unlimited {
    ($client:ident, $channel:expr) => {
        $client::new($channel.clone())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX)
    };
}

impl Client {
    pub async fn connect(endpoint: &str) -> Client {
        Client::try_connect(endpoint).await.expect("a server that is ready accepts connections")
    }

    /// Connects to a server that may be gone.
    pub async fn try_connect(endpoint: &str) -> Result<Client, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(endpoint.to_owned())
            .expect("a URL")
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20)
            .connect_timeout(Duration::from_secs(5));
        let channel = endpoint.connect().await?;
        Ok(Client {
            kv: unlimited!(KvClient, channel),
            watch: unlimited!(WatchClient, channel),
            lease: unlimited!(LeaseClient, channel),
            cluster: unlimited!(ClusterClient, channel),
            maintenance: unlimited!(MaintenanceClient, channel),
            auth: unlimited!(AuthClient, channel),
        })
    }

    pub async fn put(&mut self, key: &str, value: &str) -> PutResponse {
        let request = PutRequest { key: key.into(), value: value.into(), ..Default::default() };
        self.kv.put(request).await.expect("a put").into_inner()
    }

    pub async fn range(&mut self, request: RangeRequest) -> Result<RangeResponse, Status> {
        Ok(self.kv.range(request).await?.into_inner())
    }

    /// The current revision, by a linearizable read.
    pub async fn revision(&mut self) -> i64 {
        let request = RangeRequest { key: b"\0no such key".to_vec(), ..Default::default() };
        self.range(request).await.expect("a range").header.expect("a header").revision
    }

    /// Opens a watch stream.
    pub async fn watch(&mut self) -> WatchStream {
        self.watch_with(&[]).await
    }

    /// Opens a watch stream with metadata.
    pub async fn watch_with(&mut self, metadata: &[(&'static str, &'static str)]) -> WatchStream {
        let (requests, receiver) = mpsc::channel(64);
        let mut outbound = tonic::Request::new(Requests(receiver));
        for (name, value) in metadata {
            outbound.metadata_mut().insert(*name, value.parse().expect("ASCII"));
        }
        // Servers send the response headers only with the first answer, so the call is awaited by `next`.
        let mut client = self.watch.clone();
        let opening =
            tokio::spawn(async move { client.watch(outbound).await.map(tonic::Response::into_inner) });
        WatchStream { requests, opening: Some(opening), responses: None }
    }
}

/// The requests of a stream, as tonic wants them.
struct Requests<T>(mpsc::Receiver<T>);

impl<T> Stream for Requests<T> {
    type Item = T;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<T>> {
        self.0.poll_recv(context)
    }
}

/// A stream of requests that was filled before it is sent.
pub fn requests<T: Send + 'static>(items: Vec<T>) -> impl Stream<Item = T> + Send + 'static {
    let (sender, receiver) = mpsc::channel(items.len().max(1));
    for item in items {
        assert!(sender.try_send(item).is_ok(), "there is room");
    }
    Requests(receiver)
}

type Opening = tokio::task::JoinHandle<Result<Streaming<WatchResponse>, Status>>;

/// One Watch call.
pub struct WatchStream {
    requests: mpsc::Sender<WatchRequest>,
    opening: Option<Opening>,
    responses: Option<Streaming<WatchResponse>>,
}

impl WatchStream {
    pub async fn send(&mut self, union: Option<watch_request::RequestUnion>) {
        // A stream that the server has ended refuses; `next` tells why.
        let _ = self.requests.send(WatchRequest { request_union: union }).await;
    }

    pub async fn create(&mut self, request: WatchCreateRequest) {
        self.send(Some(watch_request::RequestUnion::CreateRequest(request))).await;
    }

    pub async fn progress(&mut self) {
        self.send(Some(watch_request::RequestUnion::ProgressRequest(WatchProgressRequest {}))).await;
    }

    /// The next answer, `None` at the end of the stream.
    pub async fn next(&mut self) -> Result<Option<WatchResponse>, Status> {
        if let Some(opening) = &mut self.opening {
            let responses = opening.await.expect("the opening does not panic");
            self.opening = None;
            self.responses = Some(responses?);
        }
        match &mut self.responses {
            Some(responses) => responses.message().await,
            None => Ok(None),
        }
    }

    /// The next answer; a stream that ends or stays silent fails the test.
    pub async fn expect(&mut self) -> WatchResponse {
        tokio::time::timeout(CALL_TIMEOUT, self.next())
            .await
            .expect("an answer in time")
            .expect("a stream that goes on")
            .expect("a stream that goes on")
    }

    /// True when nothing comes for `quiet`.
    pub async fn is_silent(&mut self, quiet: Duration) -> bool {
        tokio::time::timeout(quiet, self.next()).await.is_err()
    }
}
