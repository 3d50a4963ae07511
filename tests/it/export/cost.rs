//! What an export costs, said and bounded before a body is read.

use std::sync::{Arc, Mutex};

use migrate::ErrorKind;
use migrate::event::{Event, Reporter};
use migrate::plan::VercelPlan;
use migrate::snapshot::{Export, Snapshot};

use super::World;

#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Reporter for Notes {
    fn report(&self, event: Event) {
        if let Event::Note(note) = event {
            self.0.lock().unwrap().push(note);
        }
    }
}

#[tokio::test]
async fn the_cost_is_said_before_a_body_is_read() {
    let mut world = World::with_signups(10).await;
    let estimate = world.export().estimate(None, &world.cancel).await.unwrap();
    assert_eq!((estimate.blobs, estimate.pages, estimate.bodies, estimate.held), (10, 1, 10, 0));
    assert_eq!((estimate.operations.simple, estimate.operations.advanced), (10, 1));
    assert!(!world.path().exists(), "an estimate leaves nothing behind");

    world.options.max_operations = Some(10);
    let notes = Arc::new(Notes::default());
    let export = Export { events: notes.clone(), ..world.export() };
    let error = export.run(&world.writer(), &world.cancel).await.unwrap_err();
    assert_eq!((error.kind(), world.gets()), (ErrorKind::Budget, 0));
    let said = notes.0.lock().unwrap().join("\n");
    assert!(said.contains("10 simple and 1 advanced operations"), "{said}");

    world.options.max_operations = Some(11);
    world.run().await.unwrap();
    let reader = Snapshot::open(world.path()).unwrap();
    let estimate = world.export().estimate(Some(&reader), &world.cancel).await.unwrap();
    assert_eq!((estimate.bodies, estimate.held), (0, 10));
}

#[tokio::test]
async fn a_hobby_store_is_never_driven_into_its_block() {
    let mut world = World::with_signups(10_001).await;
    world.plan.source.plan = VercelPlan::Hobby;
    let error = world.run().await.unwrap_err();
    assert_eq!((error.kind(), world.gets()), (ErrorKind::Budget, 0));
    world.plan.source.plan = VercelPlan::Pro;
    assert_eq!(world.run().await.unwrap().fetched, 10_001);
}
