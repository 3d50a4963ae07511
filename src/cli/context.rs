//! What every command gets: the resolved settings, and the parts of the library they lead to.
//!
//! Parts are made when a command first asks for them, so that `migrate provision` needs no token and
//! `migrate export` no AWS credentials. Commands never read flags of other commands, the environment or
//! the terminal themselves.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use secrecy::ExposeSecret as _;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::flags::GlobalFlags;
use super::output::Output;
use super::progress::Progress;
use super::settings::{self, Environment, SourceUrl, TargetEndpoint};
use crate::blob::BlobStore;
use crate::blob::client::{Config, HttpBlob};
use crate::blob::space::BlobSpace;
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use crate::mapping::Mapper;
use crate::plan::{self, LoadedPlan, Plan, SourcePlan};
use crate::snapshot::{Snapshot, budget};
use crate::target::TargetStore;
use crate::target::dynamodb::{DynamoConfig, DynamoTarget};
#[cfg(feature = "embedded")]
use crate::target::embedded::{Engine, Location};
use crate::target::space::TargetSpace;

/// What every command gets.
pub(crate) struct Context {
    /// The flags that every command takes.
    pub(crate) flags: GlobalFlags,
    /// The environment variables that this program reads.
    pub(crate) environment: Environment,
    /// The owner of stdout and stderr.
    pub(crate) output: Output,
    /// Where the library tells what it does.
    pub(crate) events: Events,
    /// The machine's clocks.
    pub(crate) clock: Arc<dyn Clock>,
    /// Cancelled by the first Ctrl-C or SIGTERM.
    pub(crate) cancel: CancellationToken,
    settings: OnceLock<Settings>,
    mapper: OnceLock<Arc<Mapper>>,
    source: OnceLock<Arc<HttpBlob>>,
    target: OnceCell<Target>,
}

/// The plan, and what flags, environment and plan say together.
pub(crate) struct Settings {
    /// The document, its hash, the overrides.
    pub(crate) loaded: LoadedPlan,
    /// What the plan says, with overrides.
    pub(crate) plan: Arc<Plan>,
    /// Where the source is.
    pub(crate) source: SourceUrl,
    /// Where the tables are.
    pub(crate) target: TargetEndpoint,
    /// The snapshot file.
    pub(crate) snapshot: PathBuf,
}

/// A target, and the engine behind it where that is in this process.
struct Target {
    store: Arc<DynamoTarget>,
    #[cfg(feature = "embedded")]
    _engine: Option<Engine>,
}

impl Settings {
    /// Whether requests to the source are paced at the plan's rates.
    pub(crate) fn paces_source(&self) -> bool {
        self.source.is_paced()
    }
}

impl Context {
    /// A context for one command line. A command that runs others (`demo`) makes one for each.
    pub(crate) fn new(
        flags: GlobalFlags,
        environment: Environment,
        output: Output,
        cancel: CancellationToken,
    ) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let events = Arc::new(Progress::new(output.clone(), Arc::clone(&clock)));
        Self {
            flags,
            environment,
            output,
            events,
            clock,
            cancel,
            settings: OnceLock::new(),
            mapper: OnceLock::new(),
            source: OnceLock::new(),
            target: OnceCell::new(),
        }
    }

    /// The plan and the settings that depend on it. Says which values `--set` changed.
    ///
    /// # Errors
    /// `Usage` for whatever is wrong with plan, flags or environment.
    pub(crate) fn settings(&self) -> Result<&Settings> {
        if let Some(settings) = self.settings.get() {
            return Ok(settings);
        }
        let (flags, environment) = (&self.flags, &self.environment);
        let mut loaded = plan::load(&flags.plan, &settings::overrides(flags, environment))?;
        let source = SourceUrl::resolve(flags, &loaded.plan.source, environment)?;
        let target = TargetEndpoint::resolve(flags, environment)?;
        loaded.require_local(settings::is_loopback(&source.url) && target.is_local())?;
        for changed in &loaded.overrides {
            self.output.note(format_args!("plan: {} = {}", changed.key, changed.value));
        }
        if flags.drill_step {
            loaded.plan.hook = None;
        }
        let plan = Arc::new(loaded.plan.clone());
        let snapshot = match &flags.snapshot {
            Some(file) => file.clone(),
            None => PathBuf::from(format!(".migrate/{}.snapshot", plan.source.store)),
        };
        let settings = Settings { loaded, plan, source, target, snapshot };
        Ok(self.settings.get_or_init(|| settings))
    }

    /// What the plan says, with overrides.
    ///
    /// # Errors
    /// As [`Self::settings`].
    pub(crate) fn plan(&self) -> Result<&Arc<Plan>> {
        Ok(&self.settings()?.plan)
    }

    /// The plan's rules, compiled.
    ///
    /// # Errors
    /// As [`Self::settings`].
    pub(crate) fn mapper(&self) -> Result<Arc<Mapper>> {
        if let Some(mapper) = self.mapper.get() {
            return Ok(Arc::clone(mapper));
        }
        let key = self.environment.encryption_key.clone();
        let mapper = Arc::new(Mapper::with_key(self.plan()?, key)?);
        Ok(Arc::clone(self.mapper.get_or_init(|| mapper)))
    }

    /// The source: one client for all that the command does, so that rates and counts are its sum.
    ///
    /// # Errors
    /// `Usage` without a token; as [`Self::settings`].
    pub(crate) fn source(&self) -> Result<Arc<HttpBlob>> {
        if let Some(source) = self.source.get() {
            return Ok(Arc::clone(source));
        }
        let settings = self.settings()?;
        let source = self.connect_source(&settings.plan.source, &settings.source)?;
        Ok(Arc::clone(self.source.get_or_init(|| source)))
    }

    /// A source that no plan names yet.
    ///
    /// # Errors
    /// `Usage` without a token, or for a URL that is none.
    pub(crate) fn client(&self, source: &SourcePlan) -> Result<Arc<HttpBlob>> {
        self.connect_source(source, &SourceUrl::resolve(&self.flags, source, &self.environment)?)
    }

    /// The source for a gateway, which passes on what others ask: at their pace, and each request once.
    ///
    /// # Errors
    /// As [`Self::source`].
    pub(crate) fn forwarder(&self) -> Result<Arc<HttpBlob>> {
        let settings = self.settings()?;
        let token = self.environment.token()?.expose_secret().into();
        let (access, events, clock) =
            (settings.plan.source.access, Arc::clone(&self.events), Arc::clone(&self.clock));
        let config = Config::new(settings.source.url.clone(), token, access, events, clock);
        Ok(Arc::new(HttpBlob::new(Config { forwards: true, ..config })?))
    }

    /// The same store, or a drill's part of it.
    pub(crate) fn within(&self, store: Arc<dyn BlobStore>) -> Arc<dyn BlobStore> {
        match &self.flags.space {
            Some(name) => Arc::new(BlobSpace::new(store, name)),
            None => store,
        }
    }

    fn connect_source(&self, plan: &SourcePlan, at: &SourceUrl) -> Result<Arc<HttpBlob>> {
        let token = self.environment.token()?.expose_secret().into();
        let source = HttpBlob::new(Config {
            rates: at.is_paced().then(|| budget::rates(plan.plan)),
            share: plan.background_share,
            ..Config::new(
                at.url.clone(),
                token,
                plan.access,
                Arc::clone(&self.events),
                Arc::clone(&self.clock),
            )
        })?;
        tracing::info!(url = %at.url, from = at.from, "source");
        Ok(Arc::new(source))
    }

    /// The target. An embedded engine runs until the context is dropped.
    ///
    /// # Errors
    /// As [`Self::settings`], [`DynamoTarget::connect`] and, for an embedded one, `Engine::start`.
    pub(crate) async fn target(&self) -> Result<Arc<dyn TargetStore>> {
        let target = self.target.get_or_try_init(|| self.connect()).await?;
        let store: Arc<dyn TargetStore> = Arc::clone(&target.store) as _;
        Ok(match &self.flags.space {
            Some(name) => Arc::new(TargetSpace::new(store, &self.plan()?.target, name)),
            None => store,
        })
    }

    async fn connect(&self) -> Result<Target> {
        let settings = self.settings()?;
        let config = DynamoConfig::new(settings.plan.target.clone(), Arc::clone(&self.clock));
        match &settings.target {
            TargetEndpoint::Aws => Target::at(config).await,
            TargetEndpoint::Url(url) => Target::at(config.endpoint(url.clone())).await,
            TargetEndpoint::Embedded(file) => Target::embedded(config, file.clone()).await,
        }
    }

    /// The snapshot, to read bodies from.
    ///
    /// # Errors
    /// As [`Snapshot::open`].
    pub(crate) fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::open(&self.settings()?.snapshot)
    }

    /// Runs work that may be dropped at any await; Ctrl-C ends it.
    ///
    /// # Errors
    /// `Interrupted`, and what the work itself reports.
    pub(crate) async fn interruptible<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.cancel
            .run_until_cancelled(work)
            .await
            .unwrap_or_else(|| Err(Error::new(ErrorKind::Interrupted, operation).message("interrupted")))
    }
}

#[cfg(feature = "embedded")]
impl Target {
    async fn at(config: DynamoConfig) -> Result<Self> {
        Ok(Self { store: Arc::new(DynamoTarget::connect(config).await?), _engine: None })
    }

    async fn embedded(config: DynamoConfig, file: PathBuf) -> Result<Self> {
        // Opening the file may wait for another process.
        let engine =
            tokio::task::spawn_blocking(move || Engine::start(&Location::File(file), None)).await.map_err(
                |error| Error::new(ErrorKind::Internal, "start embedded DynamoDB").source(error),
            )??;
        let store = Arc::new(DynamoTarget::connect(config.endpoint(engine.endpoint())).await?);
        Ok(Self { store, _engine: Some(engine) })
    }
}

#[cfg(not(feature = "embedded"))]
impl Target {
    async fn at(config: DynamoConfig) -> Result<Self> {
        Ok(Self { store: Arc::new(DynamoTarget::connect(config).await?) })
    }

    #[expect(clippy::unused_async, reason = "as with the feature")]
    async fn embedded(_config: DynamoConfig, file: PathBuf) -> Result<Self> {
        Err(Error::new(ErrorKind::Usage, "start embedded DynamoDB")
            .key(file.display())
            .message("this build of migrate has no embedded engine")
            .hint("build it with the feature `embedded`, which is on by default"))
    }
}
