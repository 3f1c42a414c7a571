use std::{path::Path, sync::Arc, time::Instant};
use candle_core::Device;
use vstar::domain::{base_model::BaseModelProfile, concept::ModifierToken};
use vstar::engine::{base_model::BaseModel, conditioning::ConceptUse, custom_diffusion::train::*, sampler::*, Flow};
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn main() {
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    let a: Vec<String> = std::env::args().collect(); // concept name overrides out
    let root = Path::new("/work/shared/tiny");
    let info: serde_json::Value = serde_json::from_slice(&std::fs::read(root.join("concepts/concepts.json")).unwrap()).unwrap();
    let noun = info[&a[1]]["class_noun"].as_str().unwrap().to_owned();
    let known = info[&a[1]]["known_to_the_base_model"].as_bool().unwrap();
    let profile: BaseModelProfile = serde_json::from_slice(&std::fs::read("models/tiny/vstar.json").unwrap()).unwrap();
    let mut r = serde_json::to_value(&profile.training).unwrap();
    let over: serde_json::Value = serde_json::from_str(&a[3]).unwrap();
    for (k, v) in over.as_object().unwrap() { r[k] = v.clone(); }
    let seed = r.as_object_mut().unwrap().remove("seed").and_then(|s| s.as_u64()).unwrap_or(1);
    let recipe = serde_json::from_value(r).unwrap();
    let base = BaseModel::load(Path::new("models/tiny"), &Device::Cpu).unwrap();
    let mut images = vec![]; let mut files: Vec<_> = std::fs::read_dir(root.join("concepts").join(&a[1])).unwrap().map(|e| e.unwrap().path()).collect(); files.sort();
    for f in files { images.push(image::open(f).unwrap().to_rgb8()); }
    let mut class_images = vec![]; let mut all = vec![];
    for line in std::fs::read_to_string(root.join("scenes/metadata.jsonl")).unwrap().lines() {
        let v: serde_json::Value = serde_json::from_str(line).unwrap(); let t = v["text"].as_str().unwrap().to_owned();
        let words: Vec<&str> = t.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect(); let nw: Vec<&str> = noun.split(' ').collect();
        let hit = words.windows(nw.len()).any(|w| w == nw.as_slice());
        all.push((v["file_name"].as_str().unwrap().to_owned(), t, hit));
    }
    for (f, t, hit) in &all { if *hit || !known { class_images.push(CaptionedImage { image: image::open(root.join("scenes").join(f)).unwrap().to_rgb8(), caption: t.clone() }); } }
    let token = known.then(|| ModifierToken::try_from("<v>".to_owned()).unwrap());
    let name = if known { format!("<v> {noun}") } else { noun.clone() };
    let input = TrainingInput { concepts: vec![TrainingConcept { modifier_token: token, class_noun: noun.clone(), images, class_images }], recipe, seed };
    let t0 = Instant::now(); let mut enc = 0.0; let mut losses = vec![]; let mut norms = vec![];
    let delta = train(&base, &input, &mut |p| { if p.phase == TrainingPhase::Encoding { enc = t0.elapsed().as_secs_f64(); } else { losses.push(p.loss); norms.push(p.grad_norm); } Flow::Continue }).unwrap();
    let secs = t0.elapsed().as_secs_f64();
    let bytes = delta.to_safetensors().unwrap(); let out = Path::new(&a[4]); std::fs::create_dir_all(out).unwrap();
    std::fs::write(out.join("delta.safetensors"), &bytes).unwrap();
    let delta = Arc::new(vstar::engine::custom_diffusion::delta::Delta::from_safetensors(&bytes).unwrap());
    let prompts = [format!("photo of a {name} on the grass"), format!("photo of a {name} in the snow"), format!("a {name} on the beach"), format!("photo of a {name} at night"), format!("a {name} next to a cake on a yellow background"), format!("photo of a {name} on a wooden table"), format!("photo of a {noun} on the grass"), format!("a {noun} in the snow"), "photo of a cat on the grass".into(), "photo of a house on the beach".into()];
    let mut reqs = vec![];
    for s in 0..2u64 { for p in &prompts { reqs.push(SampleRequest { prompt: p.clone(), negative_prompt: String::new(), concepts: vec![ConceptUse { delta: delta.clone(), strength: 1.0 }], seed: 5 + s, image_index: 0, num_inference_steps: 30, guidance_scale: 4.0, scheduler: vstar::domain::sample::SchedulerName::Ddim, eta: 0.0, width: 64, height: 64 }); } }
    let t1 = Instant::now();
    let imgs = sample(&base, &reqs, &mut |_, _| Flow::Continue).unwrap();
    let st = t1.elapsed().as_secs_f64();
    for (i, im) in imgs.iter().enumerate() { im.save(out.join(format!("{:02}.png", i))).unwrap(); }
    std::fs::write(out.join("prompts.json"), serde_json::to_string(&prompts).unwrap()).unwrap();
    let n = losses.len(); let tail: f32 = losses[n.saturating_sub(100)..].iter().sum::<f32>() / 100f32.min(n as f32);
    let gn: f64 = norms.iter().sum::<f64>() / n as f64;
    let row = delta.concepts[0].token_row.as_ref().map(|r| r.iter().map(|x| x * x).sum::<f32>().sqrt()).unwrap_or(0.0);
    println!("{}", serde_json::json!({"name": a[2], "concept": a[1], "train_s": secs, "encode_s": enc, "sample_s": st, "loss_tail": tail, "grad_norm": gn, "row_norm": row}));
}
