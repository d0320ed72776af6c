"""A folded net in two processes, under DistributedDataParallel (gloo, CPU): the gradients are those of the loop in one."""

import socket
import subprocess
import sys
import textwrap

import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch.distributed is missing")

SCRIPT = """
    import sys, warnings
    import snntorch, torch
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel
    import snntorch_bpsta as snn

    rank, port, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    warnings.simplefilter("error")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.pool = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2)
            self.lif1, self.fc = snntorch.Leaky(beta=0.9, learn_beta=True), nn.Linear(36, 5)
            self.lif2 = snntorch.Leaky(beta=0.8, init_hidden=True)

        def forward(self, x):
            mem, rows = self.lif1.init_leaky(), []
            self.lif2.reset_mem()
            for x_t in x:
                spk, mem = self.lif1(self.pool(self.norm(self.conv(x_t))), mem)
                rows.append(self.lif2(self.fc(spk.flatten(1))))
            return torch.stack(rows), mem

    torch.manual_seed(0)
    net = Net().eval()  # batch statistics would be those of each half
    x, w = 4 * torch.rand(4, 6, 8, 1, 8, 8), torch.rand(6, 8, 5)
    mine = slice(None) if rank < 0 else slice(4 * rank, 4 * rank + 4)
    if rank >= 0:
        torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
        net = DistributedDataParallel(snn.fold_time(net))
    grads = []
    for batch in x:
        net.zero_grad()
        spk, mem = net(batch[:, mine])
        loss = (spk * w[:, mine]).flatten(2).sum((0, 2)).mean() + mem.square().flatten(1).sum(1).mean()
        loss.backward()
        grads.append({n.removeprefix("module."): p.grad.clone() for n, p in net.named_parameters() if p.grad is not None})
    if rank >= 0:
        print(net.module.report())
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    if rank <= 0:
        torch.save(grads, out)
"""


def test_two_processes_give_the_gradients_of_the_loop_on_the_joined_batch(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def start(rank, out):
        command = [sys.executable, path, str(rank), port, tmp_path / out]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)

    processes = [start(-1, "loop"), start(0, "two"), start(1, "two")]
    printed = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], printed
    for out, _ in printed[1:]:
        assert out.startswith("once for all steps: ") and "conv" in out and "lif1" in out and "lif2" in out
    loop, two = (torch.load(tmp_path / name, weights_only=True) for name in ("loop", "two"))
    assert len(loop) == len(two) == 4 and loop[0].keys() == two[0].keys()
    for batch, (one, both) in enumerate(zip(loop, two, strict=True)):
        for name, grad in one.items():
            assert torch.allclose(both[name], grad, rtol=1e-4, atol=1e-5 * float(grad.abs().max())), (
                f"batch {batch}, {name}"
            )
    assert all(grad.abs().max() > 0 for grad in loop[-1].values())
