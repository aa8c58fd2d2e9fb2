//! The table of methods: a path is looked up once, when its header enters the HPACK table.

use std::collections::HashMap;

/// Position of a method in the table given at construction.
pub type MethodIndex = u16;

/// The methods that a server knows, by full path `/package.Service/Method`.
pub struct Methods {
    paths: Vec<&'static str>,
    by_path: HashMap<&'static [u8], MethodIndex>,
    services: Vec<&'static str>,
}

impl Methods {
    /// The index of a method is its position in `paths`. Panics when a path is malformed or stands twice.
    pub fn new(paths: &[&'static str]) -> Methods {
        let mut by_path = HashMap::with_capacity(paths.len());
        let mut services: Vec<&'static str> = Vec::new();
        for (position, path) in paths.iter().enumerate() {
            let index = MethodIndex::try_from(position).expect("a method index has 16 bits");
            let Some((service, _)) = split(path) else { panic!("malformed method path {path}") };
            assert!(by_path.insert(path.as_bytes(), index).is_none(), "method path {path} stands twice");
            if !services.contains(&service) {
                services.push(service);
            }
        }
        Methods { paths: paths.to_vec(), by_path, services }
    }

    pub fn path(&self, index: MethodIndex) -> &'static str {
        self.paths[usize::from(index)]
    }

    pub fn len(&self) -> usize {
        self.paths.len()
    }

    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    pub fn find(&self, path: &[u8]) -> Option<MethodIndex> {
        self.by_path.get(path).copied()
    }

    pub(crate) fn knows_service(&self, service: &str) -> bool {
        self.services.contains(&service)
    }
}

/// Service and method of a path, as grpc-go splits it: after a leading slash, at the last one.
pub(crate) fn split(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/')?.rsplit_once('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_by_position_and_services_are_known() {
        let methods = Methods::new(&["/a.B/C", "/a.B/D", "/e.F/C"]);
        assert_eq!(methods.find(b"/a.B/D"), Some(1));
        assert_eq!(methods.find(b"/a.B/E"), None);
        assert_eq!(methods.path(2), "/e.F/C");
        assert!(methods.knows_service("a.B") && !methods.knows_service("a"));
        assert_eq!(split("/x/y/z"), Some(("x/y", "z")));
        assert_eq!(split("x/y"), None);
        assert_eq!(split("/x"), None);
    }

    #[test]
    #[should_panic(expected = "stands twice")]
    fn a_path_may_stand_once() {
        Methods::new(&["/a/b", "/a/b"]);
    }
}
