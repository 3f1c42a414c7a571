//! Who may use the API, and how much.

use clap::{Args, ValueEnum};

/// Whether callers need keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Auth {
    /// Every caller needs a key.
    Keys,
    /// Whoever reaches the service may do everything.
    None,
}

/// Settings of who may use the API.
#[derive(Clone, Debug, Args)]
pub struct AccessSettings {
    /// Whether callers need keys. Without this setting they need none on a loopback address, and the service starts on no
    /// other.
    #[arg(long, env = "VSTAR_AUTH")]
    pub auth: Option<Auth>,
    /// What keys are stored with, at least 32 characters: the same for all processes of a service, and kept apart from the
    /// database. Made at first start and kept as `key-pepper` in the data folder if this is not set.
    #[arg(long, env = "VSTAR_KEY_PEPPER", hide_env_values = true, value_name = "SECRET")]
    pub key_pepper: Option<String>,
    /// Names under which a service without keys is known, besides localhost and its address; `*` for all.
    #[arg(long, env = "VSTAR_ALLOWED_HOSTS", value_delimiter = ',', value_name = "NAME")]
    pub allowed_hosts: Vec<String>,
    /// Origins whose pages may send requests and read the answers, such as `https://shop.example`; `*` for all.
    #[arg(long, env = "VSTAR_CORS_ORIGINS", value_delimiter = ',', value_name = "ORIGIN")]
    pub cors_origins: Vec<String>,
    /// Requests that read, per key and minute; 0 for no limit.
    #[arg(long, env = "VSTAR_READS_PER_MINUTE", default_value_t = 36_000)]
    pub reads_per_minute: u32,
    /// Requests that change something, per key and minute; 0 for no limit.
    #[arg(long, env = "VSTAR_WRITES_PER_MINUTE", default_value_t = 1_200)]
    pub writes_per_minute: u32,
    /// Requests that are worked on at a time. A further one is answered 503.
    #[arg(long, env = "VSTAR_MAX_REQUESTS", default_value_t = 2_000, value_parser = parse_requests)]
    pub max_requests: usize,
}

impl Default for AccessSettings {
    fn default() -> Self {
        Self {
            auth: None,
            key_pepper: None,
            allowed_hosts: Vec::new(),
            cors_origins: Vec::new(),
            reads_per_minute: 36_000,
            writes_per_minute: 1_200,
            max_requests: 2_000,
        }
    }
}

fn parse_requests(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=1_000_000).contains(&count) => Ok(count),
        Ok(_) | Err(_) => Err(format!("`{text}` is not a number from 1 to 1000000")),
    }
}
