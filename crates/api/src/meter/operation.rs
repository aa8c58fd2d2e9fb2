//! Times by operation and outcome, as etcd's request and apply histograms tell them apart.

use std::sync::OnceLock;

use super::cells::Histogram;
use crate::calls::Rpc;

macro_rules! operations {
    ($($name:ident),* $(,)?) => {
        /// The kinds of InternalRaftRequest, and reads.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Operation { $($name),* }

        impl Operation {
            /// As metrics write it.
            pub const NAMES: &[&str] = &[$(stringify!($name)),*];
        }
    };
}

operations! {
    Range, ReadonlyTxn, Put, DeleteRange, Txn, Compaction, LeaseGrant, LeaseRevoke, LeaseCheckpoint, Alarm,
    Authenticate, AuthEnable, AuthDisable, AuthStatus, AuthUserAdd, AuthUserDelete, AuthUserGet,
    AuthUserChangePassword, AuthUserGrantRole, AuthUserRevokeRole, AuthUserList, AuthRoleList, AuthRoleAdd,
    AuthRoleDelete, AuthRoleGet, AuthRoleGrantPermission, AuthRoleRevokePermission, ClusterVersionSet,
    ClusterMemberAttrSet, DowngradeInfoSet,
}

impl Operation {
    /// What a method proposes to the log; `None` for those that never do.
    pub fn proposed_by(rpc: Rpc) -> Option<Operation> {
        Some(match rpc {
            Rpc::Put => Operation::Put,
            Rpc::DeleteRange => Operation::DeleteRange,
            Rpc::Txn => Operation::Txn,
            Rpc::Compact => Operation::Compaction,
            Rpc::LeaseGrant => Operation::LeaseGrant,
            Rpc::LeaseRevoke => Operation::LeaseRevoke,
            Rpc::Alarm => Operation::Alarm,
            Rpc::Authenticate => Operation::Authenticate,
            Rpc::AuthEnable => Operation::AuthEnable,
            Rpc::AuthDisable => Operation::AuthDisable,
            Rpc::AuthStatus => Operation::AuthStatus,
            Rpc::UserAdd => Operation::AuthUserAdd,
            Rpc::UserGet => Operation::AuthUserGet,
            Rpc::UserList => Operation::AuthUserList,
            Rpc::UserDelete => Operation::AuthUserDelete,
            Rpc::UserChangePassword => Operation::AuthUserChangePassword,
            Rpc::UserGrantRole => Operation::AuthUserGrantRole,
            Rpc::UserRevokeRole => Operation::AuthUserRevokeRole,
            Rpc::RoleAdd => Operation::AuthRoleAdd,
            Rpc::RoleGet => Operation::AuthRoleGet,
            Rpc::RoleList => Operation::AuthRoleList,
            Rpc::RoleDelete => Operation::AuthRoleDelete,
            Rpc::RoleGrantPermission => Operation::AuthRoleGrantPermission,
            Rpc::RoleRevokePermission => Operation::AuthRoleRevokePermission,
            _ => return None,
        })
    }
}

/// A histogram for each operation and outcome, made when first used: most never are. One writer, as any cell.
#[derive(Debug)]
pub struct ByOperation {
    first: u64,
    buckets: usize,
    cells: [[OnceLock<Box<Histogram>>; 2]; Operation::NAMES.len()],
}

impl ByOperation {
    /// With `buckets` bounds that double from `first` nanoseconds on.
    pub fn doubling(first: u64, buckets: usize) -> ByOperation {
        ByOperation { first, buckets, cells: Default::default() }
    }

    pub fn observe(&self, operation: Operation, ok: bool, nanoseconds: u64) {
        self.observe_many(operation, ok, nanoseconds, 1);
    }

    /// The same time `n` times.
    pub fn observe_many(&self, operation: Operation, ok: bool, nanoseconds: u64, n: u64) {
        let cell = &self.cells[operation as usize][usize::from(ok)];
        cell.get_or_init(|| Box::new(Histogram::doubling(self.first, self.buckets)))
            .observe_many(nanoseconds, n);
    }

    /// What was used: operation, success, histogram.
    pub fn used(&self) -> impl Iterator<Item = (&'static str, bool, &Histogram)> {
        Operation::NAMES.iter().zip(&self.cells).flat_map(|(name, cells)| {
            cells.iter().zip([false, true]).filter_map(|(cell, ok)| Some((*name, ok, &**cell.get()?)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_observed_is_used() {
        let times = ByOperation::doubling(1_000_000, 14);
        assert_eq!(times.used().count(), 0);
        times.observe(Operation::Put, true, 500);
        times.observe(Operation::Put, true, 500);
        times.observe(Operation::DowngradeInfoSet, false, 500);
        let used: Vec<_> = times.used().map(|(name, ok, cell)| (name, ok, cell.count())).collect();
        assert_eq!(used, [("Put", true, 2), ("DowngradeInfoSet", false, 1)]);
    }
}
