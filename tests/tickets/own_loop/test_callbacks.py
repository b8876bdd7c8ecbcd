"""The callbacks in the real Trainers of Lightning and transformers, on tiny models."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import weightspace as ws

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(32) % 3
SCHEDULE = ws.tickets.GradualSchedule(ws.Unstructured(0.2), end=6, every=2)


def zeros(module: nn.Module) -> int:
    return sum(int((p == 0).sum()) for name, p in module.named_parameters() if name.endswith("weight") and p.ndim > 1)


def test_lightning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other packages
        pl: Any = pytest.importorskip("lightning.pytorch")

    class Lit(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

        def training_step(self, batch: tuple[Tensor, Tensor], _number: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), 0.01)

    def fit(steps: int, callback: Any | None, checkpoint: Path | None = None) -> Any:
        module = Lit()
        trainer = pl.Trainer(
            max_steps=steps,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[] if callback is None else [callback],
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(module, DataLoader(TensorDataset(X, Y), 8), ckpt_path=checkpoint, weights_only=True)
        return trainer

    callback = ws.tickets.lightning_callback(SCHEDULE)
    trainer = fit(4, callback)
    assert callback.pruner.iterations == 4
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    again = ws.tickets.lightning_callback(SCHEDULE)
    resumed = fit(8, again, tmp_path / "c.ckpt")
    assert again.pruner.iterations == 8
    assert zeros(resumed.lightning_module) == 72 - round(0.2 * 72)
    assert zeros(fit(8, None).lightning_module) == 0  # the control


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


class Rows(Dataset):
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"x": X[i], "labels": Y[i]}


class Model(nn.Module):
    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = net or network()

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


def test_transformers(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers: Any = pytest.importorskip("transformers")
        pytest.importorskip("accelerate")

    def fit(steps: int, callback: Any | None, resume: bool = False, net: nn.Module | None = None) -> nn.Module:
        model = Model(net)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            arguments = transformers.TrainingArguments(
                str(tmp_path),
                max_steps=steps,
                per_device_train_batch_size=8,
                use_cpu=True,
                report_to=[],
                save_steps=4,
                disable_tqdm=True,
                logging_strategy="no",
                gradient_accumulation_steps=2,
            )
            trainer = transformers.Trainer(
                model=model, args=arguments, train_dataset=Rows(), callbacks=[] if callback is None else [callback]
            )
            trainer.train(resume_from_checkpoint=resume)
        return model

    callback = ws.tickets.transformers_callback(SCHEDULE)
    fit(4, callback)
    kept = round(callback.pruner.density * 72)
    assert callback.pruner.iterations == 4
    again = ws.tickets.transformers_callback(SCHEDULE)
    model = fit(8, again, resume=True)
    assert 14 < kept < 72
    assert again.pruner.iterations == 8
    assert zeros(model) == 72 - round(0.2 * 72)
    assert zeros(fit(2, None)) == 0  # the control

    def train(module: nn.Module, steps: int) -> None:  # the other way round: weightspace calls the Trainer
        fit(steps, None, net=module)

    task = ws.tasks.from_loop("transformers", network, train=train, budget={"steps": 2})
    tickets = ws.tickets.IMP(0.3, rate=0.5).find(ws.collect(task, 1), task)
    assert int((tickets.weights[:, tickets.layout.prunable] != 0).sum()) == round(0.3 * 72)
    assert not tickets.weights[~tickets.masks].any()
