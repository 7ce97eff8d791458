//! The git repositories of a site: one control repository with a branch for each environment, and its modules.
//!
//! Every change is a commit and a push, as people make them; what each environment must look like afterwards is known
//! without asking git.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use bunraku_common::Digest;

use super::{
    account::{git, make, write},
    input::{Expected, File, MODULES, OWN_FILES, Shape, module_name},
};

/// What Puppet and the builders read themselves.
const ENVIRONMENT_CONF: &str = "modulepath = modules:$basemodulepath\n";
const HIERA: &str = "version: 5\n";

/// One per cent of the files of an environment are changed in so many of its modules.
const MODULES_OF_A_PERCENT: usize = 8;

#[derive(Debug)]
pub(super) struct Site {
    directory: PathBuf,
    environments: BTreeMap<String, Environment>,
    collections: Vec<Collection>,
    /// Of contents that were asked for already: environments share almost all of them.
    digests: RefCell<BTreeMap<(File, u64), Digest>>,
}

/// Modules that environments of one shape share.
#[derive(Debug)]
struct Collection {
    shape: Shape,
    modules: Vec<Module>,
}

/// A module at its newest commit.
#[derive(Clone, Debug)]
struct Module {
    commit: String,
    versions: Vec<u64>,
}

#[derive(Debug)]
struct Environment {
    shape: Shape,
    /// How often each file of the control repository was changed.
    control: Vec<u64>,
    modules: Vec<Module>,
}

impl Site {
    /// Makes the repositories below `directory`, without an environment.
    pub(super) fn create(directory: &Path) -> Result<Self> {
        let site = Self {
            directory: directory.to_owned(),
            environments: BTreeMap::new(),
            collections: Vec::new(),
            digests: RefCell::default(),
        };
        let control = site.control();
        make(&control)?;
        git(directory, &["init", "--quiet", "--bare", "control.git"])?;
        git(&control, &["init", "--quiet"])?;
        git(&control, &["remote", "add", "origin", &site.url()])?;
        Ok(site)
    }

    /// What builders clone.
    pub(super) fn url(&self) -> String {
        format!("file://{}", self.directory.join("control.git").display())
    }

    /// A new branch, with the modules of its shape.
    pub(super) fn add(&mut self, environment: &str, shape: Shape) -> Result<()> {
        let modules = self.modules_of(shape)?;
        let number = self.environments.len();
        let control = (0..shape.control().len()).map(|file| Shape::first_version(file, number)).collect();
        let made = Environment { shape, control, modules };
        let clone = self.control();
        if self.environments.is_empty() {
            git(&clone, &["checkout", "--quiet", "-b", environment])?;
        } else {
            git(&clone, &["switch", "--quiet", "--orphan", environment])?;
        }
        for (file, version) in shape.control().iter().zip(&made.control) {
            write(&clone.join(&file.path), &file.content(*version))?;
        }
        write(&clone.join("environment.conf"), ENVIRONMENT_CONF.as_bytes())?;
        write(&clone.join("hiera.yaml"), HIERA.as_bytes())?;
        write(&clone.join("Puppetfile"), self.puppetfile(&made).as_bytes())?;
        self.environments.insert(environment.to_owned(), made);
        self.push(environment)
    }

    /// The everyday change: a file of Hiera data.
    pub(super) fn change_one_file(&mut self, environment: &str) -> Result<()> {
        let clone = self.switch(environment)?;
        let found = self.environment_mut(environment)?;
        let files = found.shape.control();
        let usual = usual_file(&files[..OWN_FILES]);
        // The file is the environment's own: no other ever has this version.
        found.control[usual] += 1000;
        write(&clone.join(&files[usual].path), &files[usual].content(found.control[usual]))?;
        self.push(environment)
    }

    /// One file of every hundred, in a fifth of the modules: their commits, and the Puppetfile.
    pub(super) fn change_one_percent(&mut self, environment: &str) -> Result<()> {
        let expected = self.expected(environment)?.len();
        let each = (expected / 100).div_ceil(MODULES_OF_A_PERCENT);
        for module in 0..MODULES_OF_A_PERCENT {
            self.change_in_module(environment, module * 5, each)?;
        }
        self.push_puppetfile(environment)
    }

    /// A new release of a module in which every file differs.
    pub(super) fn change_module(&mut self, environment: &str) -> Result<()> {
        self.change_in_module(environment, MODULES - 1, usize::MAX)?;
        self.push_puppetfile(environment)
    }

    /// What the environment must hold, and nothing else.
    pub(super) fn expected(&self, environment: &str) -> Result<Expected> {
        let found = self.environment(environment)?;
        let digest = |text: &[u8]| Digest::of(text);
        let mut expected = Expected::from([
            ("environment.conf".to_owned(), digest(ENVIRONMENT_CONF.as_bytes())),
            ("hiera.yaml".to_owned(), digest(HIERA.as_bytes())),
            ("Puppetfile".to_owned(), digest(self.puppetfile(found).as_bytes())),
        ]);
        for (file, version) in found.shape.control().iter().zip(&found.control) {
            expected.insert(file.path.clone(), self.digest(file, *version));
        }
        for (number, module) in found.modules.iter().enumerate() {
            for (file, version) in found.shape.module(number).iter().zip(&module.versions) {
                let path = format!("modules/{}/{}", module_name(number), file.path);
                expected.insert(path, self.digest(file, *version));
            }
        }
        Ok(expected)
    }

    fn digest(&self, file: &File, version: u64) -> Digest {
        let mut known = self.digests.borrow_mut();
        *known.entry((file.clone(), version)).or_insert_with(|| Digest::of(&file.content(version)))
    }

    fn change_in_module(&mut self, environment: &str, number: usize, files: usize) -> Result<()> {
        let shape = self.environment(environment)?.shape;
        let at = self.module(shape, number);
        let collection = self.collections.iter_mut().find(|collection| collection.shape == shape);
        let module = &mut collection.context("the modules of an environment exist")?.modules[number];
        for (file, version) in shape.module(number).iter().zip(&mut module.versions).take(files) {
            *version += 1;
            write(&at.join(&file.path), &file.content(*version))?;
        }
        module.commit = commit(&at)?;
        let changed = module.clone();
        self.environment_mut(environment)?.modules[number] = changed;
        Ok(())
    }

    fn push_puppetfile(&self, environment: &str) -> Result<()> {
        let clone = self.switch(environment)?;
        write(&clone.join("Puppetfile"), self.puppetfile(self.environment(environment)?).as_bytes())?;
        self.push(environment)
    }

    fn puppetfile(&self, environment: &Environment) -> String {
        let line = |(number, module): (usize, &Module)| {
            let url = self.module(environment.shape, number);
            format!(
                "mod '{}', :git => 'file://{}', :commit => '{}'\n",
                module_name(number),
                url.display(),
                module.commit
            )
        };
        environment.modules.iter().enumerate().map(line).collect()
    }

    /// The modules of a shape at their newest; made when it is the first environment of that shape.
    fn modules_of(&mut self, shape: Shape) -> Result<Vec<Module>> {
        if let Some(known) = self.collections.iter().find(|collection| collection.shape == shape) {
            return Ok(known.modules.clone());
        }
        let mut modules = Vec::new();
        for number in 0..MODULES {
            let at = self.module(shape, number);
            make(&at)?;
            git(&at, &["init", "--quiet", "--initial-branch", "main"])?;
            let files = shape.module(number);
            for file in &files {
                write(&at.join(&file.path), &file.content(0))?;
            }
            modules.push(Module { commit: commit(&at)?, versions: vec![0; files.len()] });
        }
        self.collections.push(Collection { shape, modules: modules.clone() });
        Ok(modules)
    }

    fn module(&self, shape: Shape, number: usize) -> PathBuf {
        let files = shape.module(number).len();
        self.directory.join(format!("modules-of-{files}-files")).join(module_name(number))
    }

    fn control(&self) -> PathBuf {
        self.directory.join("control")
    }

    fn switch(&self, environment: &str) -> Result<PathBuf> {
        git(&self.control(), &["switch", "--quiet", environment])?;
        Ok(self.control())
    }

    fn push(&self, environment: &str) -> Result<()> {
        commit(&self.control())?;
        git(&self.control(), &["push", "--quiet", "origin", environment]).map(drop)
    }

    fn environment(&self, name: &str) -> Result<&Environment> {
        self.environments.get(name).with_context(|| format!("there is no environment {name}"))
    }

    fn environment_mut(&mut self, name: &str) -> Result<&mut Environment> {
        self.environments.get_mut(name).with_context(|| format!("there is no environment {name}"))
    }
}

/// The file whose size is nearest to the median.
fn usual_file(files: &[File]) -> usize {
    let size = |file: &File| file.content(0).len().abs_diff(1_380);
    (0..files.len()).min_by_key(|number| size(&files[*number])).unwrap_or(0)
}

/// Commits everything, whatever a `.gitignore` says; answers the commit.
fn commit(at: &Path) -> Result<String> {
    git(at, &["add", "--all", "--force"])?;
    git(at, &["commit", "--quiet", "--message", "change"])?;
    Ok(git(at, &["rev-parse", "HEAD"])?.trim().to_owned())
}
