//! The RPC table: every method that clients may call, its path, its shape, and what it does to the store.
//!
//! The matches below are exhaustive: a method added to [`Rpc`] does not compile until it has a class here and an
//! entry in the dispatch (law 13).

/// A method of etcd's gRPC API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Rpc {
    Range,
    Put,
    DeleteRange,
    Txn,
    Compact,
    Watch,
    LeaseGrant,
    LeaseRevoke,
    LeaseKeepAlive,
    LeaseTimeToLive,
    LeaseLeases,
    MemberAdd,
    MemberRemove,
    MemberUpdate,
    MemberList,
    MemberPromote,
    Alarm,
    Status,
    Defragment,
    Hash,
    HashKV,
    Snapshot,
    MoveLeader,
    Downgrade,
    AuthEnable,
    AuthDisable,
    AuthStatus,
    Authenticate,
    UserAdd,
    UserGet,
    UserList,
    UserDelete,
    UserChangePassword,
    UserGrantRole,
    UserRevokeRole,
    RoleAdd,
    RoleGet,
    RoleList,
    RoleDelete,
    RoleGrantPermission,
    RoleRevokePermission,
    ElectionCampaign,
    ElectionProclaim,
    ElectionLeader,
    ElectionObserve,
    ElectionResign,
    Lock,
    LockUnlock,
    RangeStream,
    HealthCheck,
    HealthWatch,
    HealthList,
}

/// In the order of [`Rpc`]: the position is the method index that `net` reports.
pub const TABLE: [(Rpc, &str, Shape); 52] = [
    (Rpc::Range, "/etcdserverpb.KV/Range", Shape::Unary),
    (Rpc::Put, "/etcdserverpb.KV/Put", Shape::Unary),
    (Rpc::DeleteRange, "/etcdserverpb.KV/DeleteRange", Shape::Unary),
    (Rpc::Txn, "/etcdserverpb.KV/Txn", Shape::Unary),
    (Rpc::Compact, "/etcdserverpb.KV/Compact", Shape::Unary),
    (Rpc::Watch, "/etcdserverpb.Watch/Watch", Shape::BidiStream),
    (Rpc::LeaseGrant, "/etcdserverpb.Lease/LeaseGrant", Shape::Unary),
    (Rpc::LeaseRevoke, "/etcdserverpb.Lease/LeaseRevoke", Shape::Unary),
    (Rpc::LeaseKeepAlive, "/etcdserverpb.Lease/LeaseKeepAlive", Shape::BidiStream),
    (Rpc::LeaseTimeToLive, "/etcdserverpb.Lease/LeaseTimeToLive", Shape::Unary),
    (Rpc::LeaseLeases, "/etcdserverpb.Lease/LeaseLeases", Shape::Unary),
    (Rpc::MemberAdd, "/etcdserverpb.Cluster/MemberAdd", Shape::Unary),
    (Rpc::MemberRemove, "/etcdserverpb.Cluster/MemberRemove", Shape::Unary),
    (Rpc::MemberUpdate, "/etcdserverpb.Cluster/MemberUpdate", Shape::Unary),
    (Rpc::MemberList, "/etcdserverpb.Cluster/MemberList", Shape::Unary),
    (Rpc::MemberPromote, "/etcdserverpb.Cluster/MemberPromote", Shape::Unary),
    (Rpc::Alarm, "/etcdserverpb.Maintenance/Alarm", Shape::Unary),
    (Rpc::Status, "/etcdserverpb.Maintenance/Status", Shape::Unary),
    (Rpc::Defragment, "/etcdserverpb.Maintenance/Defragment", Shape::Unary),
    (Rpc::Hash, "/etcdserverpb.Maintenance/Hash", Shape::Unary),
    (Rpc::HashKV, "/etcdserverpb.Maintenance/HashKV", Shape::Unary),
    (Rpc::Snapshot, "/etcdserverpb.Maintenance/Snapshot", Shape::ServerStream),
    (Rpc::MoveLeader, "/etcdserverpb.Maintenance/MoveLeader", Shape::Unary),
    (Rpc::Downgrade, "/etcdserverpb.Maintenance/Downgrade", Shape::Unary),
    (Rpc::AuthEnable, "/etcdserverpb.Auth/AuthEnable", Shape::Unary),
    (Rpc::AuthDisable, "/etcdserverpb.Auth/AuthDisable", Shape::Unary),
    (Rpc::AuthStatus, "/etcdserverpb.Auth/AuthStatus", Shape::Unary),
    (Rpc::Authenticate, "/etcdserverpb.Auth/Authenticate", Shape::Unary),
    (Rpc::UserAdd, "/etcdserverpb.Auth/UserAdd", Shape::Unary),
    (Rpc::UserGet, "/etcdserverpb.Auth/UserGet", Shape::Unary),
    (Rpc::UserList, "/etcdserverpb.Auth/UserList", Shape::Unary),
    (Rpc::UserDelete, "/etcdserverpb.Auth/UserDelete", Shape::Unary),
    (Rpc::UserChangePassword, "/etcdserverpb.Auth/UserChangePassword", Shape::Unary),
    (Rpc::UserGrantRole, "/etcdserverpb.Auth/UserGrantRole", Shape::Unary),
    (Rpc::UserRevokeRole, "/etcdserverpb.Auth/UserRevokeRole", Shape::Unary),
    (Rpc::RoleAdd, "/etcdserverpb.Auth/RoleAdd", Shape::Unary),
    (Rpc::RoleGet, "/etcdserverpb.Auth/RoleGet", Shape::Unary),
    (Rpc::RoleList, "/etcdserverpb.Auth/RoleList", Shape::Unary),
    (Rpc::RoleDelete, "/etcdserverpb.Auth/RoleDelete", Shape::Unary),
    (Rpc::RoleGrantPermission, "/etcdserverpb.Auth/RoleGrantPermission", Shape::Unary),
    (Rpc::RoleRevokePermission, "/etcdserverpb.Auth/RoleRevokePermission", Shape::Unary),
    (Rpc::ElectionCampaign, "/v3electionpb.Election/Campaign", Shape::Unary),
    (Rpc::ElectionProclaim, "/v3electionpb.Election/Proclaim", Shape::Unary),
    (Rpc::ElectionLeader, "/v3electionpb.Election/Leader", Shape::Unary),
    (Rpc::ElectionObserve, "/v3electionpb.Election/Observe", Shape::ServerStream),
    (Rpc::ElectionResign, "/v3electionpb.Election/Resign", Shape::Unary),
    (Rpc::Lock, "/v3lockpb.Lock/Lock", Shape::Unary),
    (Rpc::LockUnlock, "/v3lockpb.Lock/Unlock", Shape::Unary),
    (Rpc::RangeStream, "/etcdserverpb.KV/RangeStream", Shape::ServerStream),
    (Rpc::HealthCheck, "/grpc.health.v1.Health/Check", Shape::Unary),
    (Rpc::HealthWatch, "/grpc.health.v1.Health/Watch", Shape::ServerStream),
    (Rpc::HealthList, "/grpc.health.v1.Health/List", Shape::Unary),
];

/// How many messages go each way; metrics name it `grpc_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Unary,
    ServerStream,
    BidiStream,
}

impl Rpc {
    /// The method at a position of [`TABLE`].
    pub fn at(index: usize) -> Rpc {
        TABLE[index].0
    }

    pub fn path(self) -> &'static str {
        TABLE[self as usize].1
    }

    pub fn shape(self) -> Shape {
        TABLE[self as usize].2
    }

    /// A call that goes on until somebody ends it.
    pub fn is_endless(self) -> bool {
        match self {
            Rpc::HealthWatch | Rpc::ElectionObserve => true,
            _ => self.shape() == Shape::BidiStream,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum_and_names_nothing_twice() {
        let mut paths = std::collections::BTreeSet::new();
        for (position, (rpc, path, _)) in TABLE.iter().enumerate() {
            assert_eq!(*rpc as usize, position);
            assert!(paths.insert(path), "{path} stands twice");
            assert!(path.starts_with('/') && path.matches('/').count() == 2);
        }
    }
}
