"""Checks of the command line before Hydra acts on it."""

import re

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from midstate.common.checks import near
from midstate.common.errors import ConfigError
from midstate.common.secrets import redact
from midstate.config.explain import suggest_key
from midstate.config.schema import GROUPS

# Settings of Hydra that may be changed, to plain values. Other ones of launchers and sweepers run code (setup,
# python, runtime_env, custom_search_space), read pickles (submitit_folder, address, storage), put lines into a batch
# script (additional_parameters), open ports, or hold overrides that are not checked (params).
_OF_LAUNCHERS = {
    "joblib": "n_jobs verbose timeout pre_dispatch batch_size max_nbytes",
    "submitit": "name timeout_min cpus_per_task gpus_per_node mem_gb stderr_to_stdout partition qos comment constraint "
    "exclude gres cpus_per_gpu gpus_per_task mem_per_gpu mem_per_cpu account signal_delay_s max_num_timeout "
    "array_parallelism",
    "ray": "ray.init.num_cpus ray.init.num_gpus ray.init.object_store_memory ray.init.log_to_driver "
    "ray.remote.num_cpus ray.remote.num_gpus ray.remote.memory ray.remote.max_retries",
}
_OF_SWEEPERS = "max_batch_size n_trials n_jobs max_failure_rate study_name sampler.seed sampler.n_startup_trials"
OWN_OF_HYDRA = (
    *("hydra/launcher", "hydra/sweeper", "hydra.verbose", "hydra.sweep.dir"),
    *(f"hydra.launcher.{name}" for names in _OF_LAUNCHERS.values() for name in names.split()),
    *(f"hydra.sweeper.{name}" for name in _OF_SWEEPERS.split()),
)


def check_command_line(arguments: list[str]) -> None:
    """Refuse a command line that would run code or read other files, before a configuration is composed.

    Args:
        arguments: the command line, without the program's name.

    Raises:
        ConfigError: unknown options; settings of Hydra's own but launcher, sweeper, verbosity and the sweep's
            directory; settings that are put below `hydra`; members of groups that are paths; a folder of experiments
            typed as a group; options that read another configuration or a pickle.
        HydraException: the arguments cannot be read as overrides.
    """
    options, unknown = get_args_parser().parse_known_args(arguments)
    if unknown:
        raise ConfigError(_no_option(unknown[0].partition("=")[0]))
    for name in ("experimental_rerun", "config_path", "config_name"):
        if getattr(options, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')}: not here; files of your own go into local/conf")
    for override in OverridesParser.create().parse_overrides(options.overrides):
        key, typed = override.key_or_group, redact(override.input_line)
        value = override.input_line.partition("=")[2]
        if "hydra" in re.split(r"[./]", key) and (
            key not in OWN_OF_HYDRA or override.package is not None or "{" in value or not value.isprintable()
        ):
            raise ConfigError(
                f"{typed}: of Hydra's own settings only launcher, sweeper, verbose and sweep.dir may be changed, to "
                f"plain values{near(key, list(OWN_OF_HYDRA), cutoff=0.8)}; what else belongs to them is set in files"
            )
        if key.startswith("experiment/"):  # a folder, which Hydra takes for a group of its own
            raise ConfigError(f"{typed}: write experiment={key.partition('/')[2]}/{redact(value)}")
        if "hydra" in (override.package or "").split("."):
            raise ConfigError(f"{typed}: nothing may be put below hydra")
        # Groups, and nested ones such as hydra/launcher.
        if ("/" in key or key in GROUPS) and re.search(r"\.\.|\$\{|(^|[\[,'\"])\s*/", value):
            raise ConfigError(
                f"{typed}: must be a member of the group {key}, not a path; members of your own go into local/conf"
            )


def _no_option(typed: str) -> str:
    if not typed.startswith("-"):
        return f"{typed}: settings stand on both sides of an option; write all of them behind it (-m, --cfg job)"
    guess = re.search("; did you mean .*", suggest_key(typed.strip("-").replace("-", "_") or "-"))
    return (
        f"{typed}: no such option; a setting is written without dashes, as KEY=VALUE"
        f"{guess[0] if guess else ', and --help shows what there is'}"
    )


def typed_overrides() -> list[str]:
    """Overrides exactly as typed; references, which may hold secrets, are not resolved."""
    return OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
