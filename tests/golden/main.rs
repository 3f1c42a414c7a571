//! Cases recorded from diffusers, run against the engine.
//!
//! `GOLDEN_DIR=<folder> cargo test --release --test golden [FILTER]` runs every case of every model folder below
//! `GOLDEN_DIR` (default `tests/golden`), fails beyond a case's bound, and prints the largest error of each beside it.
//! `README.md` in that folder describes the format.
//!
//! A case is a test, called `model/name`; what has an exact and a fast path runs both, the fast one as `model/name/fast`.
//! The usual arguments of a test program work (`--list`, `--exact`, `--skip`, …); a filter that matches nothing fails.
//! `GOLDEN_DEVICE=cuda:0` runs the cases there, in f32. With `GOLDEN_DTYPE=bf16` or `f16` the models compute in that dtype,
//! to measure its errors: they exceed many of the bounds, which are those of f32. `GOLDEN_PRECISION=bf16` does the same for products of
//! bf16 numbers on a CPU. `record_variants.py` makes further folders for `GOLDEN_DIR`.

mod clip;
mod merging;
mod models;
mod sampling;
mod schedulers;
mod training;

use std::{
    collections::HashMap,
    env::VarError,
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;
use vstar::engine::{
    BaseModel, Clip,
    device::device_named,
    ops::{InstructionSet, Precision},
};

/// A folder with a model and what diffusers answered for it.
pub(crate) struct GoldenModel {
    dir: PathBuf,
    device: Device,
    dtype: DType,
    precision: Precision,
    tensors: HashMap<String, Tensor>,
    base: OnceLock<BaseModel>,
    clip: OnceLock<Clip>,
}

impl GoldenModel {
    /// The diffusers folder itself.
    pub(crate) fn folder(&self) -> PathBuf {
        self.dir.join("model")
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// The whole model, loaded when the first case asks for it.
    pub(crate) fn base(&self) -> Result<&BaseModel> {
        if self.base.get().is_none() {
            let base = BaseModel::load_as(&self.folder(), &self.device, self.dtype, self.precision)
                .context("the model folder does not load")?;
            let _ = self.base.set(base);
        }
        self.base.get().context("unreachable: it was just set")
    }

    /// The folder as a CLIP model, loaded likewise.
    pub(crate) fn clip(&self) -> Result<&Clip> {
        if self.clip.get().is_none() {
            let clip = Clip::load(&self.folder(), &self.device)
                .context("the model folder does not load")?;
            let _ = self.clip.set(clip);
        }
        self.clip.get().context("unreachable: it was just set")
    }

    /// A recorded tensor by its name in `cases.safetensors.gz`, on the CPU in the type it was recorded in.
    pub(crate) fn tensor(&self, name: &str) -> Result<Tensor> {
        self.tensors
            .get(name)
            .cloned()
            .with_context(|| format!("cases.safetensors.gz has no `{name}`"))
    }
}

/// One entry of `cases.json`.
pub(crate) struct Case<'a> {
    pub(crate) model: &'a GoldenModel,
    pub(crate) json: &'a Value,
}

impl Case<'_> {
    pub(crate) fn str(&self, key: &str) -> Result<&str> {
        self.json[key].as_str().with_context(|| format!("`{key}` is not a string"))
    }

    pub(crate) fn f64(&self, key: &str) -> Result<f64> {
        self.json[key].as_f64().with_context(|| format!("`{key}` is not a number"))
    }

    pub(crate) fn usize(&self, key: &str) -> Result<usize> {
        Ok(self.json[key].as_u64().with_context(|| format!("`{key}` is not a natural number"))?
            as usize)
    }

    pub(crate) fn bool(&self, key: &str) -> Result<bool> {
        self.json[key].as_bool().with_context(|| format!("`{key}` is not true or false"))
    }

    pub(crate) fn tolerance(&self) -> Result<f64> {
        self.f64("tolerance")
    }

    /// The tensor that `key` names, as it was recorded.
    pub(crate) fn tensor(&self, key: &str) -> Result<Tensor> {
        self.model.tensor(self.str(key)?)
    }

    /// The tensor that `key` names, in f32 on the model's device.
    pub(crate) fn input(&self, key: &str) -> Result<Tensor> {
        Ok(self.tensor(key)?.to_dtype(DType::F32)?.to_device(&self.model.device)?)
    }

    /// The token ids that `key` names: a list in the JSON, or a tensor with one row of ids per prompt.
    pub(crate) fn ids(&self, key: &str) -> Result<Vec<Vec<u32>>> {
        Ok(self.tensor(key)?.to_dtype(DType::U32)?.to_vec2()?)
    }

    /// Ours against the recorded tensor that `key` names.
    pub(crate) fn compare(&self, key: &str, ours: &Tensor) -> Result<Measured> {
        compare(key, ours, &self.tensor(key)?, self.tolerance()?)
    }
}

/// How far one result lies from the recorded one.
pub(crate) struct Measured {
    pub(crate) what: String,
    pub(crate) error: f64,
    pub(crate) tolerance: f64,
}

impl Measured {
    /// False for NaN too.
    fn holds(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// The README's rule: the largest absolute difference over the largest absolute value of the reference.
pub(crate) fn compare(
    what: &str,
    ours: &Tensor,
    reference: &Tensor,
    tolerance: f64,
) -> Result<Measured> {
    ensure!(
        ours.dims() == reference.dims(),
        "`{what}` is {:?}, recorded {:?}",
        ours.dims(),
        reference.dims()
    );
    let (ours, reference) = (to_f64(ours)?, to_f64(reference)?);
    ensure!(ours.iter().all(|value| value.is_finite()), "`{what}` has values that are not finite");
    let difference = ours.iter().zip(&reference).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let scale = reference.iter().map(|value| value.abs()).fold(0.0, f64::max);
    Ok(Measured { what: what.to_owned(), error: relative(difference, scale), tolerance })
}

/// The README's rule for updates: `‖ΔW − ΔW_ref‖₂ / ‖ΔW_ref‖₂`.
pub(crate) fn compare_norm(
    what: &str,
    ours: &Tensor,
    reference: &Tensor,
    tolerance: f64,
) -> Result<Measured> {
    ensure!(
        ours.dims() == reference.dims(),
        "`{what}` is {:?}, recorded {:?}",
        ours.dims(),
        reference.dims()
    );
    let (ours, reference) = (to_f64(ours)?, to_f64(reference)?);
    let difference = ours.iter().zip(&reference).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    let scale = reference.iter().map(|value| value.powi(2)).sum::<f64>().sqrt();
    Ok(Measured { what: what.to_owned(), error: relative(difference, scale), tolerance })
}

/// The same rule for a single number.
pub(crate) fn compare_number(what: &str, ours: f64, reference: f64, tolerance: f64) -> Measured {
    Measured {
        what: what.to_owned(),
        error: relative((ours - reference).abs(), reference.abs()),
        tolerance,
    }
}

fn relative(difference: f64, scale: f64) -> f64 {
    if difference > 0.0 { difference / scale } else { difference }
}

fn to_f64(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

/// Every kind of the README; one that is not here fails, so that nothing is skipped unseen.
fn run(case: &Case<'_>) -> Result<Vec<Measured>> {
    match case.str("kind")? {
        "tokenize" => models::tokenize(case),
        "text_encoder" => models::text_encoder(case),
        "vae_encode" => models::vae_encode(case),
        "vae_decode" => models::vae_decode(case),
        "unet" => models::unet(case),
        "scheduler" => schedulers::scheduler(case),
        "merge" => merging::merge(case),
        "sample" => sampling::sample(case),
        "train_gradients" => training::train_gradients(case),
        "train_steps" => training::train_steps(case),
        "clip_pixel_values" => clip::pixel_values(case),
        "clip_image_features" => clip::image_features(case),
        "clip_text_features" => clip::text_features(case),
        "clip_logits" => clip::logits(case),
        kind => bail!("there is no runner for kind `{kind}`"),
    }
}

/// Whether a case goes through operations that there are an exact and a fast way for.
fn has_precisions(case: &Case<'_>) -> bool {
    match case.str("kind") {
        Ok("tokenize" | "text_encoder" | "scheduler" | "merge") => false,
        Ok(kind) => !kind.starts_with("clip_"),
        Err(_) => true,
    }
}

/// Folders with a `cases.json`, at any depth, in the order of their names.
fn model_folders(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    if dir.join("cases.json").is_file() {
        found.push(dir.to_owned());
    }
    let entries =
        std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let mut entries = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    entries.sort();
    entries
        .into_iter()
        .filter(|path| path.is_dir())
        .try_for_each(|path| model_folders(&path, found))
}

/// The worst that each case measured, a line per case.
#[derive(Default)]
struct Summary(Mutex<Vec<String>>);

impl Summary {
    fn add(&self, label: &str, worst: &Measured) {
        let Measured { error, tolerance, what } = worst;
        let line = format!("{label:<38}  {error:9.2e}  of {tolerance:8.1e}  {what}");
        self.lines().push(line);
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tensors that the cases of a model name, on the CPU.
fn recorded_tensors(path: &Path) -> Result<HashMap<String, Tensor>> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path)?).read_to_end(&mut bytes)?;
    Ok(candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)?)
}

/// The cases of one folder as tests.
fn trials(
    name: &str,
    dir: &Path,
    (device, dtype): (&Device, DType),
    precision: Precision,
    summary: &Arc<Summary>,
) -> Result<Vec<Trial>> {
    let json: Value = serde_json::from_slice(&std::fs::read(dir.join("cases.json"))?)?;
    let model = Arc::new(GoldenModel {
        dir: dir.to_owned(),
        device: device.clone(),
        dtype,
        precision,
        tensors: recorded_tensors(&dir.join("cases.safetensors.gz"))?,
        base: OnceLock::new(),
        clip: OnceLock::new(),
    });
    let mut trials = Vec::new();
    for json in json["cases"].as_array().context("`cases` is not a list")? {
        let case = json["name"].as_str().context("a case has no name")?;
        let label = match precision {
            Precision::Exact => format!("{name}/{case}"),
            Precision::Fast if has_precisions(&Case { model: &model, json }) => {
                format!("{name}/{case}/fast")
            }
            Precision::Fast => continue,
            Precision::Bf16 => format!("{name}/{case}/bf16"),
        };
        let (model, summary, json) = (model.clone(), summary.clone(), json.clone());
        trials.push(Trial::test(label.clone(), move || {
            let measured = run(&Case { model: &model, json: &json });
            judge(&label, measured, &summary).map_err(|error| Failed::from(format!("{error:#}")))
        }));
    }
    Ok(trials)
}

/// Fails if a case measured nothing or anything beyond its bound.
fn judge(label: &str, measured: Result<Vec<Measured>>, summary: &Summary) -> Result<()> {
    let measured = measured?;
    // NaN sorts last, as the worst.
    let ratio = |m: &Measured| if m.tolerance > 0.0 { m.error / m.tolerance } else { m.error };
    let worst = measured.iter().max_by(|a, b| ratio(a).total_cmp(&ratio(b)));
    let worst = worst.context("nothing was compared")?;
    summary.add(label, worst);
    match measured.iter().find(|measured| !measured.holds()) {
        None => Ok(()),
        Some(Measured { error, tolerance, what }) => {
            bail!("`{what}` is off by {error:.2e}, the bound is {tolerance:.1e}")
        }
    }
}

/// All cases of all folders below `root`.
fn all_trials(
    root: &Path,
    (device, dtype, precisions): (&Device, DType, &[Precision]),
    summary: &Arc<Summary>,
) -> Result<Vec<Trial>> {
    let mut folders = Vec::new();
    model_folders(root, &mut folders)?;
    ensure!(!folders.is_empty(), "no folder below {} has a cases.json", root.display());
    let mut all = Vec::new();
    for dir in &folders {
        let name = match dir.strip_prefix(root) {
            Ok(path) if !path.as_os_str().is_empty() => path.display().to_string(),
            _ => root.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        };
        for &precision in precisions {
            let trials = trials(&name, dir, (device, dtype), precision, summary)
                .with_context(|| dir.display().to_string())?;
            all.extend(trials);
        }
    }
    Ok(all)
}

/// What `GOLDEN_DTYPE` asks for.
fn chosen_dtype() -> Result<DType> {
    match std::env::var("GOLDEN_DTYPE").as_deref() {
        Ok("f32") | Err(VarError::NotPresent) => Ok(DType::F32),
        Ok("bf16") => Ok(DType::BF16),
        Ok("f16") => Ok(DType::F16),
        other => bail!("GOLDEN_DTYPE is {other:?}: write f32, bf16 or f16"),
    }
}

/// What `GOLDEN_PRECISION` asks for.
fn chosen_precisions() -> Result<&'static [Precision]> {
    match std::env::var("GOLDEN_PRECISION").as_deref() {
        Err(VarError::NotPresent) => Ok(&[Precision::Exact, Precision::Fast]),
        Ok("bf16") if InstructionSet::used().multiplies_bf16() => Ok(&[Precision::Bf16]),
        other => bail!(
            "GOLDEN_PRECISION is {other:?}: only bf16 can be chosen, where the CPU multiplies it"
        ),
    }
}

/// Whether the arguments choose a test, by libtest's rules.
fn is_chosen(arguments: &Arguments, name: &str) -> bool {
    let matches = |pattern: &String| match arguments.exact {
        true => name == pattern,
        false => name.contains(pattern),
    };
    arguments.filter.as_ref().is_none_or(matches) && !arguments.skip.iter().any(matches)
}

fn main() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    // Each case uses all cores.
    arguments.test_threads.get_or_insert(1);
    let root =
        std::env::var_os("GOLDEN_DIR").map_or_else(|| PathBuf::from("tests/golden"), PathBuf::from);
    let device =
        device_named(&std::env::var("GOLDEN_DEVICE").unwrap_or_else(|_| "cpu".to_owned()))?;
    let summary = Arc::new(Summary::default());
    let trials = all_trials(&root, (&device, chosen_dtype()?, chosen_precisions()?), &summary)?;
    if !arguments.list && !trials.iter().any(|trial| is_chosen(&arguments, trial.name())) {
        eprintln!("no golden case matches {:?}", arguments.filter.as_deref().unwrap_or_default());
        return Ok(ExitCode::from(101));
    }

    let conclusion = libtest_mimic::run(&arguments, trials);

    for line in summary.lines().iter() {
        println!("{line}");
    }
    Ok(conclusion.exit_code())
}
