//! From a setting to a store: which one it is, how long it may take, and how often it is asked.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::signer::Signer;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig};
use url::Url;

use super::error::{Cause, StoreError};
use super::{ANSWER, Storage};

/// For a connection to a store.
const CONNECT: Duration = Duration::from_secs(3);

/// After this time a failed request is not repeated any more.
const RETRY: Duration = Duration::from_secs(4);

/// Opens a URL, or a folder, which is made.
///
/// - `settings`: as the environment has them
pub(super) fn open(place: &str, settings: &[(String, String)]) -> Result<Storage, StoreError> {
    if !place.contains("://") {
        return open_folder(place);
    }
    let url = Url::parse(place).map_err(|_| StoreError::NotAPlace(place.to_owned()))?;
    let (scheme, prefix) =
        ObjectStoreScheme::parse(&url).map_err(|_| StoreError::NotAPlace(place.to_owned()))?;
    let open = |patience: &Patience| remote(place, &scheme, &prefix, patience, settings);
    let (store, signer) = open(&Patience::of_requests())?;
    let (probed, _) = open(&Patience::of_the_check())?;
    let put_headers: &[_] = match scheme {
        ObjectStoreScheme::MicrosoftAzure => &[("x-ms-blob-type", "BlockBlob")],
        _ => &[], // the enum is non-exhaustive
    };
    let signer = Some(signer);
    Ok(Storage { store, probed, signer, put_headers, folder: None, answer: Some(ANSWER) })
}

fn open_folder(place: &str) -> Result<Storage, StoreError> {
    std::fs::create_dir_all(place)?;
    let folder = std::fs::canonicalize(place)?;
    // A row that is committed must not lose its object to a power failure, so files and folders are synced first.
    let store = LocalFileSystem::new_with_prefix(&folder)
        .map_err(StoreError::of)?
        .with_automatic_cleanup(true)
        .with_fsync(true);
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    Ok(Storage {
        probed: store.clone(),
        store,
        signer: None,
        put_headers: &[],
        folder: Some(folder.into()),
        answer: None,
    })
}

/// How a store's client waits and repeats.
struct Patience {
    client: ClientOptions,
    retry: RetryConfig,
}

impl Patience {
    /// Failed requests are repeated for some seconds. There is no limit for a request as a whole, since that would be one
    /// for an object's size; [`Storage`] limits the time without an answer instead.
    fn of_requests() -> Self {
        let client = ClientOptions::new().with_timeout_disabled().with_connect_timeout(CONNECT);
        let backoff = BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(1),
            base: 2.0,
        };
        Self { client, retry: RetryConfig { backoff, max_retries: 5, retry_timeout: RETRY } }
    }

    /// The check at the start repeats nothing: it reports the first thing that goes wrong.
    fn of_the_check() -> Self {
        let asks_once = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        Self { retry: asks_once, ..Self::of_requests() }
    }
}

/// Settings of a kind of store, `AWS_ENDPOINT` and so on, over those of its builder.
macro_rules! configured {
    ($builder:ty, $place:expr, $prefix:literal, $patience:expr, $settings:expr) => {{
        let builder = <$builder>::new()
            .with_url($place)
            .with_client_options($patience.client.clone())
            .with_retry($patience.retry.clone());
        let settings = $settings
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .filter(|(name, _)| name.starts_with($prefix));
        let builder = settings.fold(builder, |builder, (name, value)| match name.parse() {
            Ok(key) => builder.with_config(key, value),
            Err(_) => builder,
        });
        builder.build().map_err(|error| StoreError::Settings(Cause::of(&error)))?
    }};
}

/// A store, and the same as what signs URLs of its objects.
type Opened = (Arc<dyn ObjectStore>, Arc<dyn Signer>);

fn remote(
    place: &str,
    scheme: &ObjectStoreScheme,
    prefix: &Path,
    patience: &Patience,
    settings: &[(String, String)],
) -> Result<Opened, StoreError> {
    Ok(match scheme {
        ObjectStoreScheme::AmazonS3 => {
            below(configured!(AmazonS3Builder, place, "aws_", patience, settings), prefix)
        }
        ObjectStoreScheme::GoogleCloudStorage => below(
            configured!(GoogleCloudStorageBuilder, place, "google_", patience, settings),
            prefix,
        ),
        ObjectStoreScheme::MicrosoftAzure => {
            below(configured!(MicrosoftAzureBuilder, place, "azure_", patience, settings), prefix)
        }
        _ => return Err(StoreError::NotAPlace(place.to_owned())), // the enum is non-exhaustive
    })
}

fn below<T: ObjectStore + Signer>(store: T, prefix: &Path) -> Opened {
    let store = Arc::new(PrefixStore::new(store, prefix.clone()));
    (store.clone(), store)
}
