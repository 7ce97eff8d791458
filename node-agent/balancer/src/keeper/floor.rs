//! The floor: never fewer servers in service than this, in any backend, because of us (I3).

use std::collections::BTreeMap;

use crate::{driver::Observed, name::ServerName};

/// A drain that would leave too few.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "draining {leaving} would leave {left} in service in backend {backend}, and {floor} must stay\nhint: `bunraku lb status` shows who is out of service, and why"
)]
pub struct BelowFloor {
    pub leaving: ServerName,
    pub backend: String,
    pub left: usize,
    pub floor: usize,
}

/// Whether these servers may leave service at once. Only servers that are mapped, ready, and known to be up count; who
/// gets no sessions anyway may always leave.
pub(super) fn permits(
    observed: &Observed,
    mapped: &[ServerName],
    leaving: &[ServerName],
    floor: impl Fn(&str) -> u32,
) -> Result<(), BelowFloor> {
    let serving = in_service(observed, mapped);
    for server in leaving {
        let of_backend = serving.get(server.backend()).map_or(&[][..], Vec::as_slice);
        if !of_backend.contains(server) {
            continue;
        }
        let left = of_backend.iter().filter(|name| !leaving.contains(name)).count();
        let floor = floor(server.backend()).max(1) as usize;
        if left < floor {
            let (leaving, backend) = (server.clone(), server.backend().to_owned());
            return Err(BelowFloor { leaving, backend, left, floor });
        }
    }
    Ok(())
}

/// The mapped servers that get new sessions, by backend.
pub(super) fn in_service(observed: &Observed, mapped: &[ServerName]) -> BTreeMap<String, Vec<ServerName>> {
    let mut serving: BTreeMap<String, Vec<ServerName>> = BTreeMap::new();
    for name in mapped.iter().filter(|name| observed.server(name).is_some_and(|server| server.in_service())) {
        serving.entry(name.backend().to_owned()).or_default().push(name.clone());
    }
    serving
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::driver::{Admin, Health, Server};

    fn server(name: &str, admin: Admin, health: Health) -> Server {
        let name = ServerName::parse(name).unwrap();
        Server { name, admin, health, sessions: 0, sessions_known: true, weight: 1, backup: false }
    }

    fn three() -> (Observed, Vec<ServerName>) {
        let servers = vec![
            server("p/c1", Admin::Ready, Health::Up),
            server("p/c2", Admin::Ready, Health::Up),
            server("p/c3", Admin::Ready, Health::Down),
        ];
        let mapped = servers.iter().map(|server| server.name.clone()).collect();
        (Observed { incarnation: "1".into(), servers }, mapped)
    }

    #[test]
    fn i3_who_is_down_does_not_count_and_may_leave() {
        let (observed, mapped) = three();
        permits(&observed, &mapped, &mapped[0..1], |_| 1).unwrap();
        permits(&observed, &mapped, &mapped[2..3], |_| 2).unwrap();
        let refused = permits(&observed, &mapped, &mapped[0..1], |_| 2).unwrap_err();
        assert_eq!((refused.left, refused.floor), (1, 2));
    }

    #[test]
    fn i3_who_is_mapped_to_no_compiler_and_who_is_a_backup_hold_no_floor() {
        let (mut observed, mapped) = three();
        assert!(permits(&observed, &mapped[0..1], &mapped[0..1], |_| 1).is_err());
        observed.servers[1].backup = true;
        assert!(permits(&observed, &mapped, &mapped[0..1], |_| 1).is_err());
    }

    #[test]
    fn i3_health_that_is_not_known_is_not_service() {
        let (mut observed, mapped) = three();
        observed.servers[1].health = Health::Unknown;
        assert!(permits(&observed, &mapped, &mapped[0..1], |_| 1).is_err());
    }

    proptest! {
        /// Whoever leaves and whatever the floor is: what stays is enough, or nobody in service left that backend.
        #[test]
        fn i3_no_permitted_drain_goes_below_the_floor_or_takes_the_last_one(
            states in prop::collection::vec((0..2usize, 0..3u8, 0..3u8, any::<bool>()), 1..8), floor in 0..4u32,
        ) {
            let mut servers = Vec::new();
            let mut leaving = Vec::new();
            for (at, (backend, admin, health, leaves)) in states.into_iter().enumerate() {
                let admin = [Admin::Ready, Admin::Drain, Admin::Maint][admin as usize];
                let health = [Health::Up, Health::Down, Health::Unknown][health as usize];
                let one = server(&format!("{}/c{at}", ["a", "b"][backend]), admin, health);
                if leaves { leaving.push(one.name.clone()); }
                servers.push(one);
            }
            let mapped: Vec<_> = servers.iter().map(|server| server.name.clone()).collect();
            let before = Observed { incarnation: "1".into(), servers };
            if permits(&before, &mapped, &leaving, |_| floor).is_ok() {
                let mut after = before.clone();
                after.servers.iter_mut().filter(|s| leaving.contains(&s.name)).for_each(|s| s.admin = Admin::Drain);
                let (had, has) = (in_service(&before, &mapped), in_service(&after, &mapped));
                for (backend, serving) in had {
                    let left = has.get(&backend).map_or(0, Vec::len);
                    prop_assert!(left == serving.len() || left >= floor.max(1) as usize);
                }
            }
        }
    }
}
