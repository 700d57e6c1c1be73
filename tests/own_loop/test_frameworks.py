"""The two lines in Lightning, in the Hugging Face Trainer, in two processes and under torch.compile."""

import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from loops import STEPS, assert_same, batches, gradients, network
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from midstate import prune
from midstate.sparsity import verify_nm

PAGE = (ROOT / "docs" / "own_loop.md").read_text()
SHOWN = dict(re.findall(r"^## ([^\n]+)\n\n```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))


def samples():
    return [(image, label) for images, labels in batches() for image, label in zip(images, labels, strict=True)]


def train_with_lightning(lightning, module, place, checkpoint=None, **options):
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=place, **options,
    )  # fmt: skip
    trainer.fit(module, DataLoader(samples(), batch_size=16), ckpt_path=checkpoint)


@pytest.mark.slow
def test_lightning(tmp_path):
    lightning = pytest.importorskip("lightning")
    scope = {"lightning": lightning, "torch": torch, "cross_entropy": cross_entropy, "prune": prune}
    exec(SHOWN["Lightning"], scope)
    module = scope["Pruned"](network())
    train_with_lightning(lightning, module, tmp_path, gradient_clip_val=0.05, enable_checkpointing=False)

    other = network()
    optimizer = torch.optim.SGD(other.parameters(), lr=0.05, momentum=0.9)
    pruner = prune(other, optimizer, "nm_block", n=2, m=4, total_steps=STEPS)
    for _ in range(2):
        for images, labels in DataLoader(samples(), batch_size=16):
            gradients(other, optimizer, images, labels)
            torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 0.05)
            optimizer.step()
    pruner.finalise()
    assert module.pruner.step == STEPS
    assert_same(module.network, other)
    assert verify_nm(other[2].weight, 2, 4)


@pytest.mark.slow
def test_lightnings_own_checkpoints(tmp_path):
    lightning = pytest.importorskip("lightning")
    scope = {"lightning": lightning, "torch": torch, "cross_entropy": cross_entropy, "prune": prune}
    exec(SHOWN["Lightning"], scope)

    class Resumable(scope["Pruned"]):
        def setup(self, stage):
            self.optimizer = super().configure_optimizers()

        def configure_optimizers(self):
            return self.optimizer

        def on_save_checkpoint(self, checkpoint):
            checkpoint["pruner"] = self.pruner.state_dict()

        def on_load_checkpoint(self, checkpoint):
            self.saved = checkpoint["pruner"]

        def on_fit_start(self):
            if hasattr(self, "saved"):
                self.pruner.load_state_dict(self.saved)

    whole, resumed = Resumable(network()), Resumable(network())
    keep = lightning.pytorch.callbacks.ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1)
    train_with_lightning(lightning, whole, tmp_path, callbacks=[keep])
    train_with_lightning(lightning, resumed, tmp_path, tmp_path / "epoch=0.ckpt", enable_checkpointing=False)
    assert resumed.pruner.step == whole.pruner.step == STEPS
    assert_same(whole.network, resumed.network)


@pytest.mark.slow
def test_hugging_face(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, num_channels=1, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_labels=4,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    data = [{"pixel_values": image, "labels": label} for image, label in samples()]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=6, per_device_train_batch_size=4, gradient_accumulation_steps=2,
        use_cpu=True, report_to=[], save_strategy="no", logging_steps=3, disable_tqdm=True,
    )  # fmt: skip
    scope = {"transformers": transformers, "model": model, "arguments": arguments, "data": data, "prune": prune}
    exec(SHOWN["Hugging Face Trainer"], scope)
    pruner = scope["pruner"]
    assert scope["optimizer"].defaults["fused"]
    assert "classifier: classifier;" in pruner.describe()
    pruned = [layer.weight for layer in pruner.pruner.layers]
    assert len(pruned) == 12
    assert all(verify_nm(weight, 2, 4) for weight in pruned)
    assert all(weight.count_nonzero() == weight.numel() / 2 for weight in pruned)


PROCESS = """
import torch, torch.distributed as dist
from loops import network, batches
from midstate import prune
dist.init_process_group("gloo")
rank, model = dist.get_rank(), network()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
pruner = prune(model, optimizer, "NAME", n=2, m=4, total_steps=8)
parallel = torch.nn.parallel.DistributedDataParallel(model)
try:
    prune(parallel, optimizer, "nm", total_steps=8)
except ValueError as error:
    assert "call prune on the plain model, before DDP" in str(error)
else:
    raise AssertionError("DDP was taken")
for images, labels in batches():
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(parallel(images[rank::2]), labels[rank::2]).backward()
    optimizer.step()
pruner.finalise()
state = {name: tensor for name, tensor in model.state_dict().items()}
for name, tensor in state.items():
    others = [torch.empty_like(tensor) for _ in range(2)]
    dist.all_gather(others, tensor)
    assert others[0].equal(others[1]), name
if rank == 0:
    torch.save(state, "model.pt")
del parallel  # with its threads, before the interpreter ends
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nm_block", "lbc"])
def test_two_processes(tmp_path, name):
    (tmp_path / "train.py").write_text(PROCESS.replace("NAME", name))
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests" / "own_loop")])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "model.pt", weights_only=True)

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    pruner = prune(model, optimizer, name, n=2, m=4, total_steps=STEPS)
    for images, labels in batches():
        gradients(model, optimizer, images, labels)
        optimizer.step()
    pruner.finalise()
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-5)
    assert verify_nm(found["2.weight"], 2, 4)


@pytest.mark.slow
def test_compiled():
    model, other = network(), network()
    for net, wrapped in ((model, torch.compile), (other, lambda net: net)):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        pruner = prune(net, optimizer, "nm_block", n=2, m=4, total_steps=STEPS)
        forward = wrapped(net)
        for images, labels in batches():
            gradients(forward, optimizer, images, labels)
            optimizer.step()
        pruner.finalise()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    assert verify_nm(model[2].weight, 2, 4)
