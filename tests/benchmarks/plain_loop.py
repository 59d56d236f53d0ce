"""Two training loops as anybody would write and time them; imports only torch. Prints nanoseconds per update.

    python tests/benchmarks/plain_loop.py autograd|naive STEPS

`line` by autograd, `line_deep` by hand and out of place; batch 100, one thread, STEPS updates to a block: the 25 %
quantile of blocks over 1.5 s, after 0.2 s of warm-up. Both keep the loss of each update, as anybody does who wants to
see a curve.
"""

import sys
import time

import torch

torch.set_num_threads(1)
torch.manual_seed(0)
x = torch.linspace(-1, 1, 100).unsqueeze(1)
y = 2 * x + 1 + 0.1 * torch.randn(x.shape)
hidden = [torch.nn.Linear(10, 10), torch.nn.ReLU()] if sys.argv[1] == "naive" else []
model = torch.nn.Sequential(torch.nn.Linear(1, 10), torch.nn.ReLU(), *hidden, torch.nn.Linear(10, 1))


def by_autograd(steps: int, model, loss_function, optimizer, x, y) -> torch.Tensor:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_function(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def by_hand(steps: int, w1, b1, w2, b2, w3, b3, x, y) -> torch.Tensor:
    losses = []
    for _ in range(steps):
        first = (x @ w1.t() + b1).clamp_min(0)
        second = (first @ w2.t() + b2).clamp_min(0)
        difference = second @ w3.t() + b3 - y
        losses.append((difference * difference).mean())
        delta3 = difference * (2 / difference.numel())
        delta2 = delta3 @ w3 * (second > 0)
        delta1 = delta2 @ w2 * (first > 0)
        w3.sub_(delta3.t() @ second, alpha=0.1)
        b3.sub_(delta3.sum(0), alpha=0.1)
        w2.sub_(delta2.t() @ first, alpha=0.1)
        b2.sub_(delta2.sum(0), alpha=0.1)
        w1.sub_(delta1.t() @ x, alpha=0.1)
        b1.sub_(delta1.sum(0), alpha=0.1)
    return torch.stack(losses)


if sys.argv[1] == "autograd":
    block = by_autograd
    given = (model, torch.nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1), x, y)
else:
    block = by_hand
    given = (*(parameter.detach() for parameter in model.parameters()), x, y)

steps = int(sys.argv[2])
start = time.perf_counter()
while time.perf_counter() < start + 0.2:
    block(steps, *given)
blocks: list[float] = []
while sum(blocks) < 1.5:
    start = time.perf_counter()
    block(steps, *given)
    blocks.append(time.perf_counter() - start)
print(sorted(blocks)[len(blocks) // 4] / steps * 1e9)
