//! The errors that clients see: gRPC code and text, exactly as etcd 3.7 words them (clients map errors by text).
//!
//! A message that varies carries it in `message`; the constants cover everything that is fixed.

use std::borrow::Cow;

pub use tonic::Code;

/// What a failed call answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub code: Code,
    pub message: Cow<'static, str>,
}

impl Error {
    pub const fn fixed(code: Code, message: &'static str) -> Error {
        Error { code, message: Cow::Borrowed(message) }
    }

    pub fn new(code: Code, message: String) -> Error {
        Error { code, message: Cow::Owned(message) }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {}", self.code, self.message)
    }
}

impl std::error::Error for Error {}

pub const EMPTY_KEY: Error = Error::fixed(Code::InvalidArgument, "etcdserver: key is not provided");
pub const KEY_NOT_FOUND: Error = Error::fixed(Code::InvalidArgument, "etcdserver: key not found");
pub const VALUE_PROVIDED: Error = Error::fixed(Code::InvalidArgument, "etcdserver: value is provided");
pub const LEASE_PROVIDED: Error = Error::fixed(Code::InvalidArgument, "etcdserver: lease is provided");
pub const TOO_MANY_OPS: Error =
    Error::fixed(Code::InvalidArgument, "etcdserver: too many operations in txn request");
pub const DUPLICATE_KEY: Error =
    Error::fixed(Code::InvalidArgument, "etcdserver: duplicate key given in txn request");
pub const INVALID_CLIENT_API_VERSION: Error =
    Error::fixed(Code::InvalidArgument, "etcdserver: invalid client api version");
pub const INVALID_SORT_OPTION: Error = Error::fixed(Code::InvalidArgument, "etcdserver: invalid sort option");
pub const COMPACTED: Error =
    Error::fixed(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
pub const FUTURE_REV: Error =
    Error::fixed(Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
pub const NO_SPACE: Error =
    Error::fixed(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
pub const LEASE_NOT_FOUND: Error = Error::fixed(Code::NotFound, "etcdserver: requested lease not found");
pub const LEASE_EXIST: Error = Error::fixed(Code::FailedPrecondition, "etcdserver: lease already exists");
pub const LEASE_TTL_TOO_LARGE: Error = Error::fixed(Code::OutOfRange, "etcdserver: too large lease TTL");
pub const WATCH_CANCELED: Error = Error::fixed(Code::Cancelled, "etcdserver: watch canceled");
pub const MEMBER_EXIST: Error = Error::fixed(Code::FailedPrecondition, "etcdserver: member ID already exist");
pub const PEER_URL_EXIST: Error =
    Error::fixed(Code::FailedPrecondition, "etcdserver: Peer URLs already exists");
pub const MEMBER_NOT_ENOUGH_STARTED: Error = Error::fixed(
    Code::FailedPrecondition,
    "etcdserver: re-configuration failed due to not enough started members",
);
pub const MEMBER_BAD_URLS: Error =
    Error::fixed(Code::InvalidArgument, "etcdserver: given member URLs are invalid");
pub const MEMBER_NOT_FOUND: Error = Error::fixed(Code::NotFound, "etcdserver: member not found");
pub const MEMBER_NOT_LEARNER: Error =
    Error::fixed(Code::FailedPrecondition, "etcdserver: can only promote a learner member");
pub const LEARNER_NOT_READY: Error = Error::fixed(
    Code::FailedPrecondition,
    "etcdserver: can only promote a learner member which is in sync with leader",
);
pub const TOO_MANY_LEARNERS: Error =
    Error::fixed(Code::FailedPrecondition, "etcdserver: too many learner members in cluster");
pub const CLUSTER_ID_MISMATCH: Error =
    Error::fixed(Code::FailedPrecondition, "etcdserver: cluster ID mismatch");
pub const REQUEST_TOO_LARGE: Error = Error::fixed(Code::InvalidArgument, "etcdserver: request is too large");
pub const REQUEST_TOO_MANY_REQUESTS: Error =
    Error::fixed(Code::ResourceExhausted, "etcdserver: too many requests");
pub const ROOT_USER_NOT_EXIST: Error =
    Error::fixed(Code::FailedPrecondition, "etcdserver: root user does not exist");
pub const ROOT_ROLE_NOT_EXIST: Error =
    Error::fixed(Code::FailedPrecondition, "etcdserver: root user does not have root role");
pub const USER_ALREADY_EXIST: Error =
    Error::fixed(Code::FailedPrecondition, "etcdserver: user name already exists");
pub const USER_EMPTY: Error = Error::fixed(Code::InvalidArgument, "etcdserver: user name is empty");
pub const USER_NOT_FOUND: Error = Error::fixed(Code::FailedPrecondition, "etcdserver: user name not found");
pub const ROLE_ALREADY_EXIST: Error =
    Error::fixed(Code::FailedPrecondition, "etcdserver: role name already exists");
pub const ROLE_NOT_FOUND: Error = Error::fixed(Code::FailedPrecondition, "etcdserver: role name not found");
pub const ROLE_EMPTY: Error = Error::fixed(Code::InvalidArgument, "etcdserver: role name is empty");
pub const AUTH_FAILED: Error =
    Error::fixed(Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password");
pub const PERMISSION_NOT_GIVEN: Error =
    Error::fixed(Code::InvalidArgument, "etcdserver: permission not given");
pub const PERMISSION_DENIED: Error = Error::fixed(Code::PermissionDenied, "etcdserver: permission denied");
pub const ROLE_NOT_GRANTED: Error =
    Error::fixed(Code::FailedPrecondition, "etcdserver: role is not granted to the user");
pub const PERMISSION_NOT_GRANTED: Error =
    Error::fixed(Code::FailedPrecondition, "etcdserver: permission is not granted to the role");
pub const AUTH_NOT_ENABLED: Error =
    Error::fixed(Code::FailedPrecondition, "etcdserver: authentication is not enabled");
pub const INVALID_AUTH_TOKEN: Error = Error::fixed(Code::Unauthenticated, "etcdserver: invalid auth token");
pub const INVALID_AUTH_MGMT: Error =
    Error::fixed(Code::InvalidArgument, "etcdserver: invalid auth management");
pub const AUTH_OLD_REVISION: Error =
    Error::fixed(Code::InvalidArgument, "etcdserver: revision of auth store is old");
pub const NO_LEADER: Error = Error::fixed(Code::Unavailable, "etcdserver: no leader");
pub const NOT_LEADER: Error = Error::fixed(Code::FailedPrecondition, "etcdserver: not leader");
pub const LEADER_CHANGED: Error = Error::fixed(Code::Unavailable, "etcdserver: leader changed");
pub const NOT_CAPABLE: Error = Error::fixed(Code::FailedPrecondition, "etcdserver: not capable");
pub const STOPPED: Error = Error::fixed(Code::Unavailable, "etcdserver: server stopped");
pub const TIMEOUT: Error = Error::fixed(Code::Unavailable, "etcdserver: request timed out");
pub const TIMEOUT_DUE_TO_LEADER_FAIL: Error =
    Error::fixed(Code::Unavailable, "etcdserver: request timed out, possibly due to previous leader failure");
pub const TIMEOUT_DUE_TO_CONNECTION_LOST: Error =
    Error::fixed(Code::Unavailable, "etcdserver: request timed out, possibly due to connection lost");
pub const TIMEOUT_WAIT_APPLIED_INDEX: Error = Error::fixed(
    Code::Unavailable,
    "etcdserver: request timed out, waiting for the applied index took too long",
);
pub const UNHEALTHY: Error = Error::fixed(Code::Unavailable, "etcdserver: unhealthy cluster");
pub const CORRUPT: Error = Error::fixed(Code::DataLoss, "etcdserver: corrupt cluster");
pub const NOT_SUPPORTED_FOR_LEARNER: Error =
    Error::fixed(Code::FailedPrecondition, "etcdserver: rpc not supported for learner");
pub const BAD_LEADER_TRANSFEREE: Error =
    Error::fixed(Code::FailedPrecondition, "etcdserver: bad leader transferee");
pub const WRONG_DOWNGRADE_VERSION_FORMAT: Error =
    Error::fixed(Code::InvalidArgument, "etcdserver: wrong downgrade target version format");
pub const INVALID_DOWNGRADE_TARGET_VERSION: Error =
    Error::fixed(Code::InvalidArgument, "etcdserver: invalid downgrade target version");
pub const CLUSTER_VERSION_UNAVAILABLE: Error =
    Error::fixed(Code::FailedPrecondition, "etcdserver: cluster version not found during downgrade");
pub const DOWNGRADE_IN_PROCESS: Error =
    Error::fixed(Code::FailedPrecondition, "etcdserver: cluster has a downgrade job in progress");
pub const NO_INFLIGHT_DOWNGRADE: Error =
    Error::fixed(Code::FailedPrecondition, "etcdserver: no inflight downgrade job");
pub const CANCELED: Error = Error::fixed(Code::Cancelled, "etcdserver: request canceled");
pub const DEADLINE_EXCEEDED: Error =
    Error::fixed(Code::DeadlineExceeded, "etcdserver: context deadline exceeded");
