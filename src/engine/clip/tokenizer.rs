//! CLIP's byte-level BPE, with modifier tokens in addition to its vocabulary.
//!
//! A prompt is cut at special and added tokens, brought to NFC, its runs of white space become one space, and it is
//! lower-cased. What is left is split into words, contractions, single digits and runs of signs; each piece is
//! written in byte symbols and merged pair by pair, the last symbol of a piece carrying `</w>`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::Deserialize;
use serde_json::Value;
use tokenizers::{
    AddedToken, AddedVocabulary, Model, NormalizerWrapper, OffsetType, PreTokenizer,
    PreTokenizerWrapper, SplitDelimiterBehavior,
    models::bpe::{BPE, Vocab},
    normalizers::{
        Lowercase, NFC, Replace, Sequence as NormalizerSequence, replace::ReplacePattern,
    },
    pre_tokenizers::{
        byte_level::ByteLevel,
        sequence::Sequence as PreTokenizerSequence,
        split::{Split, SplitPattern},
    },
};

use crate::domain::git_lfs;
use crate::engine::{
    error::{EngineError, Result},
    weights::read_json,
};

/// Words, contractions, single digits, runs of signs; white space lies between.
const PIECES: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// The limit if a tokenizer folder names none, which is that of every CLIP model.
const DEFAULT_MAX_LENGTH: usize = 77;

/// A prompt as the text encoder takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenIds {
    /// Begin, prompt, end and padding: exactly as many as the model's limit, cut if necessary.
    pub ids: Vec<u32>,
    /// Tokens with beginning and end before cutting: the prompt fits if this is at most the limit.
    pub length: usize,
}

/// Turns prompts into token ids as diffusers does.
///
/// | file                                       | what is read                                              |
/// |--------------------------------------------|-----------------------------------------------------------|
/// | `vocab.json`, `merges.txt`                 | byte-level BPE (or both out of `tokenizer.json`)          |
/// | `tokenizer_config.json`                    | `model_max_length`, `bos_token`, `eos_token`, `unk_token`, `pad_token`, `added_tokens_decoder` |
/// | `special_tokens_map.json`                  | special tokens, unless the config has `added_tokens_decoder` |
/// | `added_tokens.json`                        | tokens that were added to the vocabulary later, with their ids |
pub struct ClipTokenizer {
    model: BPE,
    normalizer: NormalizerWrapper,
    pre_tokenizer: PreTokenizerWrapper,
    /// Special tokens, matched as they are written, and those that the folder adds to the vocabulary.
    special: AddedVocabulary,
    /// The published ids of tokens that are not in `model`, in the order in which `special` numbers them.
    added_ids: Vec<u32>,
    /// Where the ids of modifier tokens begin.
    first_modifier_id: u32,
    bos_id: u32,
    eos_id: u32,
    pad_id: u32,
    max_length: usize,
}

/// The fields of `tokenizer_config.json` that matter here.
#[derive(Deserialize, Default)]
struct TokenizerConfig {
    model_max_length: Option<f64>, // 1e30 stands for "no limit"
    #[serde(default)]
    added_tokens_decoder: BTreeMap<String, TokenConfig>,
    #[serde(flatten)]
    special: SpecialTokens,
}

#[derive(Deserialize, Default)]
struct SpecialTokens {
    bos_token: Option<TokenOrText>,
    eos_token: Option<TokenOrText>,
    unk_token: Option<TokenOrText>,
    pad_token: Option<TokenOrText>,
}

#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum TokenOrText {
    Text(String),
    Token(TokenConfig),
}

#[derive(Deserialize, Clone)]
struct TokenConfig {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

impl ClipTokenizer {
    /// Reads a tokenizer folder.
    pub fn load(dir: &Path) -> Result<Self> {
        let config: TokenizerConfig = read_json_or_default(&dir.join("tokenizer_config.json"))?;
        let map: SpecialTokens = read_json_or_default(&dir.join("special_tokens_map.json"))?;
        // As in transformers: the map wins over a config that does not list its added tokens.
        let map_wins = config.added_tokens_decoder.is_empty();
        let token = |config: &Option<TokenOrText>, map: &Option<TokenOrText>, default: &str| {
            let (first, second) = if map_wins { (map, config) } else { (config, map) };
            first
                .clone()
                .or_else(|| second.clone())
                .unwrap_or_else(|| TokenOrText::Text(default.to_owned()))
        };
        let special = &config.special;
        let bos = token(&special.bos_token, &map.bos_token, "<|startoftext|>").added();
        let eos = token(&special.eos_token, &map.eos_token, "<|endoftext|>").added();
        let unk = token(&special.unk_token, &map.unk_token, "<|endoftext|>").added();
        let pad = token(&special.pad_token, &map.pad_token, "<|endoftext|>").added();

        let model = read_bpe(dir, &unk.content)?;
        let normalizer = normalizer().map_err(|error| failed(dir, error))?;
        let pre_tokenizer = pre_tokenizer().map_err(|error| failed(dir, error))?;
        let listed = read_added_tokens(dir, &config)?;
        let id_of = |token: &AddedToken| {
            let added = || listed.iter().find(|(_, added)| added.content == token.content);
            let id = model.token_to_id(&token.content).or_else(|| Some(added()?.0));
            id.ok_or_else(|| {
                failed(dir, format!("the vocabulary lacks the special token `{}`", token.content))
            })
        };
        let (bos_id, eos_id, pad_id) = (id_of(&bos)?, id_of(&eos)?, id_of(&pad)?);
        id_of(&unk)?;

        let is_new = |token: &AddedToken| model.token_to_id(&token.content).is_none();
        let added_ids: Vec<u32> =
            listed.iter().filter(|(_, token)| is_new(token)).map(|(id, _)| *id).collect();
        let listed: Vec<AddedToken> = listed.into_iter().map(|(_, token)| token).collect();
        let missing = [bos, eos, unk, pad]
            .into_iter()
            .filter(|token| !listed.iter().any(|t| t.content == token.content));
        let tokens = missing.clone().collect::<Vec<_>>();
        let mut special = AddedVocabulary::new();
        special
            .add_tokens(listed.into_iter().chain(tokens), &model, Some(&normalizer))
            .map_err(|error| failed(dir, error))?;

        let max_length = match config.model_max_length {
            Some(limit) if (2.0..1e9).contains(&limit) => limit as usize,
            Some(_) | None => DEFAULT_MAX_LENGTH,
        };
        let mut tokenizer = Self {
            model,
            normalizer,
            pre_tokenizer,
            special,
            added_ids,
            first_modifier_id: 0,
            bos_id,
            eos_id,
            pad_id,
            max_length,
        };
        tokenizer.first_modifier_id = tokenizer.vocab_size() as u32;
        Ok(tokenizer)
    }

    /// Gives modifier tokens the ids behind a text encoder's embedding table, which may be longer than the vocabulary.
    pub(crate) fn with_table(self, rows: usize) -> Self {
        Self { first_modifier_id: rows as u32, ..self }
    }

    /// Encodes a prompt; `added_tokens` match anywhere in it, in upper or lower case, and get the ids that follow
    /// the vocabulary and the embedding table, in this order.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for an added token that the vocabulary has.
    pub fn encode(&self, prompt: &str, added_tokens: &[&str]) -> Result<TokenIds> {
        if let Some(token) = added_tokens.iter().find(|token| self.has_token(token)) {
            return Err(EngineError::InvalidInput(format!(
                "the base model's vocabulary has `{token}` as a token of its own: choose another modifier token"
            )));
        }
        let pieces = self.pieces(prompt, added_tokens);
        let mut ids = pieces.map_err(|error| {
            EngineError::InvalidInput(format!("cannot tokenize `{prompt}`: {error}"))
        })?;

        let length = ids.len() + 2;
        ids.truncate(self.max_length - 2);
        ids.insert(0, self.bos_id);
        ids.push(self.eos_id);
        ids.resize(self.max_length, self.pad_id);
        Ok(TokenIds { ids, length })
    }

    /// Lowers the limit to what a text encoder takes.
    pub(super) fn with_limit(self, tokens: usize) -> Self {
        Self { max_length: self.max_length.min(tokens.max(2)), ..self }
    }

    /// What every encoded prompt ends with.
    pub(super) fn eos_id(&self) -> u32 {
        self.eos_id
    }

    /// Tokens of a text encoder input.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Entries of the vocabulary with those that were added to it: one more than the highest id.
    pub fn vocab_size(&self) -> usize {
        let added = self.added_ids.iter().max().map_or(0, |id| *id as usize + 1);
        self.model.get_vocab_size().max(added)
    }

    /// The id of the first modifier token.
    pub fn first_modifier_id(&self) -> usize {
        self.first_modifier_id as usize
    }

    /// The id of a raw vocabulary entry, such as `ktn` (within a word) or `dog</w>` (at its end).
    pub fn token_id(&self, entry: &str) -> Option<u32> {
        let id = self.special.token_to_id(entry, &self.model)?;
        Some(self.published_id(id))
    }

    /// Whether the vocabulary has a token that a text with `token` would be cut at. Added tokens match in any case.
    pub fn has_token(&self, token: &str) -> bool {
        let added = self.special.get_vocab().keys();
        self.model.token_to_id(token).is_some()
            || added.into_iter().any(|known| known.eq_ignore_ascii_case(token))
    }

    fn pieces(&self, prompt: &str, added_tokens: &[&str]) -> tokenizers::Result<Vec<u32>> {
        let mut vocabulary = self.special.clone();
        let added = added_tokens.iter().map(|token| AddedToken::from(*token, false));
        vocabulary.add_tokens(added, &self.model, Some(&self.normalizer))?;

        let mut pieces = vocabulary.extract_and_normalize(Some(&self.normalizer), prompt);
        self.pre_tokenizer.pre_tokenize(&mut pieces)?;
        self.model.tokenize_in_pretokenized(&mut pieces, None)?;
        let encoding = pieces.into_encoding(None, 0, OffsetType::Byte)?;
        Ok(encoding.get_ids().iter().map(|id| self.published_id(*id)).collect())
    }

    /// The id by which the text encoder knows a token. The library numbers what is added in the order of its coming.
    fn published_id(&self, id: u32) -> u32 {
        let Some(added) = id.checked_sub(self.model.get_vocab_size() as u32) else { return id };
        match self.added_ids.get(added as usize) {
            Some(id) => *id,
            None => self.first_modifier_id + added - self.added_ids.len() as u32,
        }
    }
}

impl TokenOrText {
    /// As a special token: a bare text is matched as it is written.
    fn added(&self) -> AddedToken {
        match self {
            Self::Text(text) => AddedToken::from(text.clone(), true),
            Self::Token(token) => TokenConfig { special: true, ..token.clone() }.added(),
        }
    }
}

impl TokenConfig {
    fn added(&self) -> AddedToken {
        AddedToken::from(self.content.clone(), self.special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized)
    }
}

fn normalizer() -> tokenizers::Result<NormalizerWrapper> {
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".into()), " ")?;
    Ok(NormalizerSequence::new(vec![NFC.into(), spaces.into(), Lowercase.into()]).into())
}

fn pre_tokenizer() -> tokenizers::Result<PreTokenizerWrapper> {
    let split =
        Split::new(SplitPattern::Regex(PIECES.into()), SplitDelimiterBehavior::Removed, true)?;
    let bytes = ByteLevel::new(false, true, true);
    Ok(PreTokenizerSequence::new(vec![split.into(), bytes.into()]).into())
}

/// Vocabulary and merges: from their own files, or out of the `tokenizer.json` that newer folders have instead.
fn read_bpe(dir: &Path, unk_token: &str) -> Result<BPE> {
    let (vocabulary, merges) = match dir.join("vocab.json") {
        path if path.is_file() => (read_json(&path)?, read_merges(&dir.join("merges.txt"))?),
        _ => read_tokenizer_json(&dir.join("tokenizer.json"))?,
    };
    let vocabulary: BTreeMap<String, u32> = vocabulary;
    let (entries, highest) = (vocabulary.len(), vocabulary.values().max().copied());
    if highest.map_or(0, |id| id as usize + 1) != entries {
        let highest = highest.unwrap_or_default();
        let reason =
            format!("the vocabulary has {entries} entries, and their ids go up to {highest}");
        return Err(failed(dir, reason));
    }
    BPE::builder()
        .vocab_and_merges(vocabulary.into_iter().collect::<Vocab>(), merges)
        .unk_token(unk_token.to_owned())
        .continuing_subword_prefix(String::new())
        .end_of_word_suffix("</w>".to_owned())
        .build()
        .map_err(|error| failed(dir, error))
}

/// The tokens that a folder adds to its vocabulary, by their ids, each once: of the config, of `added_tokens.json`, and of a
/// `tokenizer.json` that stands for the vocabulary.
fn read_added_tokens(dir: &Path, config: &TokenizerConfig) -> Result<Vec<(u32, AddedToken)>> {
    #[derive(Deserialize, Default)]
    struct File {
        #[serde(default)]
        added_tokens: Vec<Listed>,
    }
    #[derive(Deserialize)]
    struct Listed {
        id: u32,
        #[serde(flatten)]
        token: TokenConfig,
    }
    let mut tokens: Vec<(u32, AddedToken)> = Vec::new();
    for (id, token) in &config.added_tokens_decoder {
        let id = id
            .parse()
            .map_err(|_| failed(dir, format!("`{id}` in added_tokens_decoder is not an id")))?;
        tokens.push((id, token.added()));
    }
    let path = dir.join("added_tokens.json");
    let added: BTreeMap<String, u32> = read_json_or_default(&path)?;
    // Without further settings, such a token is matched in any case.
    tokens.extend(added.into_iter().map(|(content, id)| (id, AddedToken::from(content, false))));
    if !dir.join("vocab.json").is_file() {
        let file: File = read_json_or_default(&dir.join("tokenizer.json"))?;
        tokens.extend(file.added_tokens.iter().map(|listed| (listed.id, listed.token.added())));
    }
    let mut known = BTreeSet::new();
    tokens.retain(|(_, token)| !token.content.is_empty() && known.insert(token.content.clone()));
    tokens.sort_by_key(|(id, _)| *id);
    Ok(tokens)
}

fn read_merges(path: &Path) -> Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(path).map_err(|error| failed(path, error))?;
    if git_lfs::is_pointer(text.as_bytes()) {
        return Err(failed(path, git_lfs::REMEDY));
    }
    let lines = text.lines().filter(|line| !line.starts_with("#version") && !line.is_empty());
    lines
        .map(|line| match line.split_once(' ') {
            Some((left, right)) => Ok((left.to_owned(), right.to_owned())),
            None => Err(failed(path, format!("`{line}` is not a pair"))),
        })
        .collect()
}

type VocabularyAndMerges = (BTreeMap<String, u32>, Vec<(String, String)>);

fn read_tokenizer_json(path: &Path) -> Result<VocabularyAndMerges> {
    #[derive(Deserialize)]
    struct File {
        model: BpeModel,
    }
    #[derive(Deserialize)]
    struct BpeModel {
        vocab: BTreeMap<String, u32>,
        merges: Vec<Value>, // "a b", or in newer files ["a", "b"]
    }
    let file: File = read_json(path)?;
    let pair = |merge: &Value| match merge {
        Value::String(text) => {
            text.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned()))
        }
        other => Some((other[0].as_str()?.to_owned(), other[1].as_str()?.to_owned())),
    };
    let merges = file
        .model
        .merges
        .iter()
        .map(|m| pair(m).ok_or_else(|| failed(path, format!("{m} is not a pair"))));
    Ok((file.model.vocab, merges.collect::<Result<_>>()?))
}

fn read_json_or_default<T: for<'de> Deserialize<'de> + Default>(path: &Path) -> Result<T> {
    if path.is_file() { read_json(path) } else { Ok(T::default()) }
}

fn failed(path: &Path, reason: impl std::fmt::Display) -> EngineError {
    EngineError::ModelFile { path: path.display().to_string(), reason: reason.to_string() }
}
