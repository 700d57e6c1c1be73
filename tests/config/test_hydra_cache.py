"""What the tests' cache of Hydra's files gives is what Hydra gives without it."""

import json
import subprocess
import sys

from conftest import composed
from omegaconf import OmegaConf

LINES = [
    [],
    ["pruner=nm_block", "seed=3"],
    ["pruner=nm_block", "seed=4", "pruner.m=8", "trainer.epochs=2"],  # kept by now
    ["pruner=nm_block", "pruner/criterion=taylor", "schedule=cubic"],
    ["experiment=c5_deep_down", "data=digits"],
    ["experiment=c5_deep_down", "data=digits", "data.augmentation.crop_padding=1", "debug=fast"],
    ["quantizer=lsq", "model=timm", "++model.arguments={a: [1, {b: 2}]}", "+model.more=1"],
    ["pruner=nm_block", "seed=3"],  # the first again: nobody has changed what is kept
]
WITHOUT = """
import json, sys
from omegaconf import OmegaConf
from midstate.config.compose import composed
print(json.dumps([OmegaConf.to_yaml(composed(*line)) for line in json.loads(sys.argv[1])]))
"""


def test_a_configuration_is_the_same_without_it():
    command = [sys.executable, "-c", WITHOUT, json.dumps(LINES)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [OmegaConf.to_yaml(composed(*line)) for line in LINES] == json.loads(done.stdout)
