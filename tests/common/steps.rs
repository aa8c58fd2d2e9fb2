//! One request to both servers, one answer from each: the vocabulary of the differential test.

use proto::etcdserverpb::*;
use tonic::{Request as Call, Status};

use crate::common::client::{CALL_TIMEOUT, Client, requests};

/// What failed, as a client sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub code: tonic::Code,
    pub message: String,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        Failure { code: status.code(), message: status.message().to_owned() }
    }
}

macro_rules! calls {
    ($($name:ident($request:ty) -> $response:ty = $service:ident.$method:ident;)*) => {
        /// A call with one answer, or with a short stream of them.
        #[derive(Clone, Debug)]
        pub enum Request {
            $($name($request),)*
            RangeStream(RangeRequest),
            KeepAlive(Vec<i64>),
        }

        /// Its answer.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Answer {
            $($name($response),)*
            RangeStream(Vec<RangeResponse>),
            KeepAlive(Vec<LeaseKeepAliveResponse>),
            Failed(Failure),
        }

        impl Request {
            /// The name of the call.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Request::$name(_) => stringify!($name),)*
                    Request::RangeStream(_) => "RangeStream",
                    Request::KeepAlive(_) => "KeepAlive",
                }
            }

            async fn ask(self, client: &mut Client) -> Result<Answer, Failure> {
                match self {
                    $(Request::$name(request) => {
                        Ok(Answer::$name(client.$service.$method(Call::new(request)).await?.into_inner()))
                    })*
                    Request::RangeStream(request) => {
                        let mut chunks = client.kv.range_stream(request).await?.into_inner();
                        let mut answer = Vec::new();
                        while let Some(chunk) = chunks.message().await? {
                            answer.push(chunk.range_response.unwrap_or_default());
                        }
                        Ok(Answer::RangeStream(answer))
                    }
                    Request::KeepAlive(ids) => {
                        let asked = ids.into_iter().map(|id| LeaseKeepAliveRequest { id }).collect();
                        let mut stream = client.lease.lease_keep_alive(requests(asked)).await?.into_inner();
                        let mut answer = Vec::new();
                        while let Some(one) = stream.message().await? {
                            answer.push(one);
                        }
                        Ok(Answer::KeepAlive(answer))
                    }
                }
            }
        }
    };
}

calls! {
    Range(RangeRequest) -> RangeResponse = kv.range;
    Put(PutRequest) -> PutResponse = kv.put;
    DeleteRange(DeleteRangeRequest) -> DeleteRangeResponse = kv.delete_range;
    Txn(TxnRequest) -> TxnResponse = kv.txn;
    Compact(CompactionRequest) -> CompactionResponse = kv.compact;
    LeaseGrant(LeaseGrantRequest) -> LeaseGrantResponse = lease.lease_grant;
    LeaseRevoke(LeaseRevokeRequest) -> LeaseRevokeResponse = lease.lease_revoke;
    LeaseTimeToLive(LeaseTimeToLiveRequest) -> LeaseTimeToLiveResponse = lease.lease_time_to_live;
    LeaseLeases(LeaseLeasesRequest) -> LeaseLeasesResponse = lease.lease_leases;
    MemberList(MemberListRequest) -> MemberListResponse = cluster.member_list;
    MemberAdd(MemberAddRequest) -> MemberAddResponse = cluster.member_add;
    MemberRemove(MemberRemoveRequest) -> MemberRemoveResponse = cluster.member_remove;
    MemberUpdate(MemberUpdateRequest) -> MemberUpdateResponse = cluster.member_update;
    MemberPromote(MemberPromoteRequest) -> MemberPromoteResponse = cluster.member_promote;
    Status(StatusRequest) -> StatusResponse = maintenance.status;
    Alarm(AlarmRequest) -> AlarmResponse = maintenance.alarm;
    HashKv(HashKvRequest) -> HashKvResponse = maintenance.hash_kv;
    Hash(HashRequest) -> HashResponse = maintenance.hash;
    Defragment(DefragmentRequest) -> DefragmentResponse = maintenance.defragment;
    MoveLeader(MoveLeaderRequest) -> MoveLeaderResponse = maintenance.move_leader;
    Downgrade(DowngradeRequest) -> DowngradeResponse = maintenance.downgrade;
    AuthEnable(AuthEnableRequest) -> AuthEnableResponse = auth.auth_enable;
    AuthDisable(AuthDisableRequest) -> AuthDisableResponse = auth.auth_disable;
    AuthStatus(AuthStatusRequest) -> AuthStatusResponse = auth.auth_status;
    Authenticate(AuthenticateRequest) -> AuthenticateResponse = auth.authenticate;
    UserAdd(AuthUserAddRequest) -> AuthUserAddResponse = auth.user_add;
    UserGet(AuthUserGetRequest) -> AuthUserGetResponse = auth.user_get;
    UserList(AuthUserListRequest) -> AuthUserListResponse = auth.user_list;
    UserDelete(AuthUserDeleteRequest) -> AuthUserDeleteResponse = auth.user_delete;
    UserChangePassword(AuthUserChangePasswordRequest) -> AuthUserChangePasswordResponse = auth.user_change_password;
    UserGrantRole(AuthUserGrantRoleRequest) -> AuthUserGrantRoleResponse = auth.user_grant_role;
    UserRevokeRole(AuthUserRevokeRoleRequest) -> AuthUserRevokeRoleResponse = auth.user_revoke_role;
    RoleAdd(AuthRoleAddRequest) -> AuthRoleAddResponse = auth.role_add;
    RoleGet(AuthRoleGetRequest) -> AuthRoleGetResponse = auth.role_get;
    RoleList(AuthRoleListRequest) -> AuthRoleListResponse = auth.role_list;
    RoleDelete(AuthRoleDeleteRequest) -> AuthRoleDeleteResponse = auth.role_delete;
    RoleGrantPermission(AuthRoleGrantPermissionRequest) -> AuthRoleGrantPermissionResponse
        = auth.role_grant_permission;
    RoleRevokePermission(AuthRoleRevokePermissionRequest) -> AuthRoleRevokePermissionResponse
        = auth.role_revoke_permission;
}

impl Request {
    /// Sends it; silence is a failure of its own kind.
    pub async fn send(self, mut client: Client) -> Answer {
        match tokio::time::timeout(CALL_TIMEOUT, self.ask(&mut client)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(failure)) => Answer::Failed(failure),
            Err(_) => Answer::Failed(Failure {
                code: tonic::Code::DeadlineExceeded,
                message: "no answer before the test's own deadline".into(),
            }),
        }
    }
}

/// One move of the script. Writes go one by one, so that revisions are comparable; reads between two writes go all
/// at once.
#[derive(Clone, Debug)]
pub enum Step {
    Write(Request),
    Reads(Vec<Request>),
    WatchCreate {
        stream: usize,
        request: WatchCreateRequest,
    },
    WatchCancel {
        stream: usize,
        id: i64,
    },
    /// A request without content: to be ignored.
    WatchNothing {
        stream: usize,
    },
    /// Ends a stream; the next use of the number opens a new one.
    WatchClose {
        stream: usize,
    },
    /// Waits until every watcher has got what it must, and compares.
    Settle,
}

impl Step {
    /// Requests in it, for counting.
    pub fn requests(&self) -> u64 {
        match self {
            Step::Reads(reads) => reads.len() as u64,
            Step::Settle | Step::WatchClose { .. } => 0,
            _ => 1,
        }
    }
}
