//! Images that join and leave a batch between any two steps, each as if alone.

use vstar::domain::sample::SchedulerName;
use vstar::engine::random::{Purpose, Random};
use vstar::engine::{
    ConceptUse, DenoisingState, RunningBatch, RunningImage, SampleRequest, images, step,
};

use crate::deltas::rex;
use crate::sampler::{any_concept, any_request, base_model, generate, numbers};

#[test]
fn strict_images_do_not_depend_on_neighbours_that_come_and_go_nor_on_threads() {
    let base = base_model();
    let rex = |strength| ConceptUse { delta: any_concept(&base), strength };
    let request = SampleRequest {
        prompt: "a <rex> dog".into(),
        concepts: vec![rex(0.9)],
        num_inference_steps: 6,
        scheduler: SchedulerName::EulerA,
        guidance_interval: [0.1, 0.8],
        ..any_request(&base)
    };
    let alone = numbers(&base, &request);
    for (threads, neighbours) in [(1, 1), (2, 3), (2, 7), (1, 7)] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let among = pool.install(|| {
            let mut own = DenoisingState::new(&base, &request).unwrap();
            let mut random = Random::new(9, Purpose::DataOrder, neighbours, threads as u64);
            let mut others: Vec<(usize, DenoisingState)> = (0..neighbours)
                .map(|i| {
                    let steps = 1 + random.below(9);
                    let scheduler = SchedulerName::ALL[random.below(9)];
                    let concepts = (i % 2 == 0).then(|| rex(random.uniform())).into_iter();
                    let other = SampleRequest {
                        concepts: concepts.collect(),
                        prompt: ["a dog", "a chair"][random.below(2)].into(),
                        num_inference_steps: steps,
                        scheduler,
                        seed: i,
                        width: request.width * (1 + random.below(2)),
                        ..any_request(&base)
                    };
                    (random.below(6), DenoisingState::new(&base, &other).unwrap())
                })
                .collect();
            let mut now = 0;
            while own.remaining() > 0 {
                // Before and behind it in the batch, joining at a step of their own.
                let mut batch: Vec<&mut DenoisingState> = others
                    .iter_mut()
                    .filter(|(joins, state)| *joins <= now && state.remaining() > 0)
                    .map(|(_, state)| state)
                    .collect();
                let at = random.below(batch.len() + 1);
                batch.insert(at, &mut own);
                step(&base, &mut batch).unwrap();
                now += 1;
            }
            own.decode(&base).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        });
        assert!(among == alone, "{neighbours} neighbours on {threads} threads");
    }
}

#[test]
fn an_image_that_overflows_fails_alone_and_the_others_of_its_batch_go_on() {
    let base = base_model();
    let request = any_request(&base);
    let broken = SampleRequest {
        prompt: "a <rex> dog".into(),
        concepts: vec![ConceptUse { delta: rex(&base, |_| 1e37), strength: 1.0 }],
        ..request.clone()
    };
    let mut batch = RunningBatch::new(usize::MAX);
    for (owner, request) in [("broken", &broken), ("whole", &request)] {
        let state = DenoisingState::new(&base, request).unwrap();
        batch.join(RunningImage { owner, state, scale: 1 });
    }

    let (mut failed, mut finished) = (Vec::new(), Vec::new());
    while !batch.is_empty() {
        batch.step(
            &base,
            |_, call| call(),
            |image, result| {
                if let Err(error) = result {
                    failed.push((image.owner, error.to_string()));
                }
            },
        );
        batch.retain(|owner| !failed.iter().any(|(failed, _)| failed == owner));
        finished.extend(batch.take_finished());
    }

    assert_eq!(failed, [("broken", "the image is not finite after step 1".to_owned())]);
    let image = images(&base, &[&finished[0].state]).unwrap().remove(0).into_raw();
    assert!(image == generate(&base, &[request])[0], "the other image is what it is alone");
}

#[test]
fn a_batch_takes_as_many_images_at_a_step_as_fit() {
    let base = base_model();
    let guided = any_request(&base);
    let unguided = SampleRequest { guidance_scale: 1.0, ..guided.clone() };
    let image = |owner, request: &SampleRequest, scale| {
        let state = DenoisingState::new(&base, request).unwrap();
        RunningImage { owner, state, scale }
    };
    let mut batch = RunningBatch::new(4);
    assert!(batch.has_room_for(9), "an image that is larger than the batch takes its steps alone");
    batch.join(image(0, &guided, 1));
    batch.join(image(1, &unguided, 1));
    assert!(batch.has_room_for(1) && !batch.has_room_for(2));
    batch.join(image(2, &guided, 1));

    let whose = |batch: &RunningBatch<i32>| -> Vec<i32> {
        batch.turn().iter().map(|image| image.owner).collect()
    };
    assert_eq!(whose(&batch), [0, 1]);
    batch.retain(|owner| *owner != 1);
    assert_eq!(whose(&batch), [0, 2]);
    batch.retain(|_| false);
    batch.join(image(3, &guided, 4));
    batch.join(image(4, &unguided, 1));
    assert_eq!(whose(&batch), [3]);
}
