//! A county's disk is full for a while: nobody else waits, its name reaches whoever submits to it, and everything that was
//! taken arrives once there is room.

use crate::world::World;
use crate::{FaultSet, Options, check};
use jincai_types::{Destination, Priority};
use std::collections::BTreeMap;

const MINISTRY: usize = 0;
/// The county, another below its province, and two below the other province.
const FULL: usize = 3;
const OTHERS: [usize; 3] = [4, 5, 6];
/// Messages are submitted to each of them so often, in milliseconds.
const PAUSE: u64 = 100;

impl World {
    /// The ministry takes a message to a county, or refuses it.
    fn submit_to(&mut self, to: usize, id: String) -> Result<(), jincai_core::Error> {
        let (destination, names) = (Destination::Authority(self.nodes[to].id), (id, String::new()));
        let running = self.nodes[MINISTRY].running.as_mut().expect("it runs");
        running.core.submit_note(self.now, destination, Priority::Record, names, vec![1; 300])?;
        self.drive(MINISTRY).expect("it goes on");
        Ok(())
    }

    fn has_applied(&self, node: usize) -> usize {
        self.nodes[node].applied.len()
    }

    fn waits(&self, node: usize) -> Vec<String> {
        let exchange = self.nodes[node].running.as_ref().expect("it runs").core.exchange();
        exchange.links().iter().flat_map(|link| link.waits.iter().map(ToString::to_string)).collect()
    }
}

#[test]
fn a_full_county_delays_nobody_else_and_is_named_to_who_submits_to_it() {
    let options = Options { faults: FaultSet::none(), ..Options::default() };
    let mut world = World::new(&options, 5);
    world.begin().and_then(|()| world.pass(10_000)).expect("a world begins");
    world.fill_disk(FULL).expect("it has a disk");
    let (full, province) = (world.nodes[FULL].id, world.nodes[1].id);
    let mut taken: BTreeMap<usize, usize> = BTreeMap::new();
    let (mut refused, mut rounds_left) = (None, 2_000);
    while rounds_left > 0 {
        for to in OTHERS.into_iter().chain([FULL]) {
            match world.submit_to(to, format!("{to}/{rounds_left}")) {
                Ok(()) => *taken.entry(to).or_default() += 1,
                Err(error) if to == FULL => {
                    // From the first refusal on it stays so for ten seconds more.
                    rounds_left = rounds_left.min(100);
                    refused = Some(error);
                }
                Err(error) => panic!("a message to another county is refused: {error}"),
            }
        }
        world.pass(PAUSE).expect("time passes");
        rounds_left -= 1;
        for to in OTHERS {
            let late = taken[&to] - world.has_applied(to);
            assert!(late <= 5, "{late} messages to {} wait, {} ms or more", world.nodes[to].id, 5 * PAUSE);
        }
    }
    let refused = refused.expect("the ministry refuses at last");
    // Which reason it is depends on whether the county has room left to say that it has none.
    let (name, by) = (format!("waits for {full}: "), format!(", said by {province}"));
    assert_eq!(refused.code(), "JC-1226");
    assert!(refused.to_string().contains(&name) && refused.to_string().contains(&by), "{refused}");
    let (here, there) = (world.waits(MINISTRY), world.waits(1));
    assert!(here.len() == 1 && here[0].starts_with(&name) && here[0].ends_with(&by), "{here:?}");
    assert!(there.len() == 1 && there[0].starts_with(&name), "{there:?}");
    assert!(world.has_applied(FULL) < taken[&FULL], "some of it waits");
    world.make_room(FULL);
    world.pass(30_000).expect("time passes");
    for (to, count) in taken {
        assert_eq!(world.has_applied(to), count, "everything that was taken arrives at {}", world.nodes[to].id);
    }
    assert!(check::is_settled(&world), "{}", check::unsettled(&world));
    assert_eq!((world.waits(MINISTRY), world.waits(1)), (Vec::new(), Vec::new()));
    world.submit_to(FULL, "after".into()).expect("it is taken again");
}
