"""Training: targets, pruning, exact resumption, lottery rounds, replay."""

import csv
import itertools
import json
import os
import signal

import numpy as np
import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="needs the `train` extra")

from reticent.errors import UserError  # noqa: E402
from reticent.network import Conv, Dense, Flatten, InputSpec, Network, reference_network  # noqa: E402
from reticent.training import files, pruning  # noqa: E402
from reticent.training.distil import divergence  # noqa: E402
from reticent.training.evaluation import evaluate, interval  # noqa: E402
from reticent.training.games import Games  # noqa: E402
from reticent.training.learner import Explorer, Learner  # noqa: E402
from reticent.training.lottery import Lottery, gradual_settings, round_density  # noqa: E402
from reticent.training.pqn import lambda_returns  # noqa: E402
from reticent.training.qnetwork import QNetwork, initial_tensors  # noqa: E402
from reticent.training.replay import Replay  # noqa: E402
from reticent.training.settings import (  # noqa: E402
    DistilSettings,
    DqnSettings,
    PqnSettings,
    from_json,
    preset,
    presets,
)
from reticent.training.trainer import Run  # noqa: E402

PQN = PqnSettings(
    frames=3 * 4 * 64, environments=8, steps=8, minibatch=16, segment=4 * 64, evaluation=0
)
DQN = DqnSettings(
    frames=3 * 4 * 128,
    environments=2,
    minibatch=8,
    segment=4 * 128,
    evaluation=0,
    replay=200,
    learning_starts=64,
    target_every=50,
)

DISTIL = DistilSettings(
    frames=3 * 4 * 64,
    environments=8,
    steps=8,
    minibatch=16,
    segment=4 * 64,
    evaluation=0,
    density=((0.3, 1.0), (0.9, 0.4)),
)


def tiny(actions=4):
    """A network that watches a game and costs next to nothing."""
    return Network(
        input=InputSpec(height=84, width=84),
        layers=(
            Conv(
                name="conv",
                weight=np.zeros((4, 4, 12, 12), np.float32),
                bias=np.zeros(4, np.float32),
                stride=(12, 12),
            ),
            Flatten(),
            Dense(
                name="out",
                weight=np.zeros((actions, 196), np.float32),
                bias=np.zeros(actions, np.float32),
                activation="identity",
            ),
        ),
    )


def learner(settings=PQN, seed=0):
    tensors = initial_tensors(tiny(), seed)
    return Learner(settings, QNetwork(tiny(), tensors, precision="float32"))


def test_lambda_returns_follow_the_definition():
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(6, 3)).astype(np.float32)
    values = rng.normal(size=(7, 3)).astype(np.float32)
    ends = rng.random((6, 3)) < 0.3
    gamma, trace = 0.9, 0.65

    def expected(t, game):
        """Mixture of all n-step returns from t on."""
        total, weight, discount, collected = 0.0, 1.0, 1.0, 0.0
        for k in range(t, 6):
            collected += discount * rewards[k, game]
            if ends[k, game]:
                return total + weight * collected
            discount *= gamma
            n_step = collected + discount * values[k + 1, game]
            share = 1.0 if k == 5 else 1 - trace
            total += weight * share * n_step
            weight *= trace
        return total

    found = lambda_returns(rewards, ends, values, gamma, trace)
    for t, game in itertools.product(range(6), range(3)):
        assert found[t, game] == pytest.approx(expected(t, game), rel=1e-5, abs=1e-6)


def test_forward_equals_the_float_network():
    from reticent.floatnet import dense_forward

    shape = reference_network(6, seed=3, density=0.5)
    tensors = {name: torch.from_numpy(array) for name, array in shape.arrays().items()}
    network = QNetwork(shape, tensors, precision="float32")
    seen = np.random.default_rng(0).integers(0, 256, (2, 4, 84, 84), dtype=np.uint8)
    with torch.no_grad():
        got = network(torch.from_numpy(seen)).numpy()
    for observation, values in zip(seen, got, strict=True):
        wanted = dense_forward(shape, observation.astype(np.float32) / 255)[-1].reshape(-1)
        np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-4)
    for name, array in network.network().arrays().items():
        np.testing.assert_array_equal(array, shape.arrays()[name])


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_masks_keep_the_largest_weights_and_only_tighten(scope):
    weights = {
        "a": torch.tensor([[1.0, -5.0], [3.0, 0.5]]),
        "b": torch.tensor([10.0, -20.0, 30.0, 40.0]),
    }
    masks = pruning.full_masks(weights)
    masks = pruning.magnitude_masks(weights, masks, 0.5, scope)
    assert pruning.density(masks) == 0.5
    if scope == "global":
        assert not masks["a"].any()
        assert masks["b"].all()
    else:
        assert masks["a"].tolist() == [[False, True], [True, False]]
        assert masks["b"].tolist() == [False, False, True, True]
    weights["a"][:] = 1000.0  # grew again: pruned stays pruned
    tighter = pruning.magnitude_masks(weights, masks, 0.25, scope)
    assert pruning.density(tighter) == 0.25
    assert all(not (tighter[name] & ~masks[name]).any() for name in masks)
    same = pruning.magnitude_masks(weights, tighter, 0.9, scope)
    assert all(torch.equal(same[name], tighter[name]) for name in masks)


def test_schedule_is_cubic_between_waypoints():
    waypoints = [(0.2, 1.0), (0.6, 0.2), (0.8, 0.2), (1.0, 0.1)]
    density = [pruning.scheduled_density(waypoints, done) for done in (0, 0.2, 0.4, 0.6, 0.7, 1)]
    assert density == pytest.approx([1, 1, 0.2 + 0.8 / 8, 0.2, 0.2, 0.1])
    assert pruning.scheduled_density([], 0.5) == 1


@pytest.mark.parametrize("settings", [PQN, DQN])
def test_pruned_weights_are_zero_at_every_step(settings):
    one = learner(PQN.changed({"density": "0:1,0.8:0.3"}) if settings is PQN else settings)
    if settings is DQN:
        one.masks = pruning.magnitude_masks(one.network.weights, one.masks, 0.5, "layer")
        pruning.apply_masks(one.network.tensors, one.masks)
    rng = np.random.default_rng(0)
    seen = torch.from_numpy(rng.integers(0, 256, (16, 4, 84, 84), dtype=np.uint8))
    changed = False
    for step in range(12):
        one.frames = step * one.settings.frames // 12
        one.prune()
        before = one.network.tensors["conv.weight"].detach().clone()
        one.step((one.network(seen) - 1).square().mean())
        changed |= not torch.equal(before, one.network.tensors["conv.weight"])
        for name, mask in one.masks.items():
            assert (one.network.tensors[name][~mask] == 0).all()
    assert changed
    assert one.density < 0.6


def test_explorer_keeps_epsilon_the_share_of_random_decisions():
    for longest in (1, 20):
        explorer = Explorer(64, 1000, longest)
        rng = np.random.default_rng(0)
        best = np.full(64, -1)
        actions = np.stack([explorer.choose(best, 0.3, rng) for _ in range(2000)])
        assert (actions >= 0).mean() == pytest.approx(0.3, abs=0.02)
        repeated = (actions[1:] == actions[:-1]) & (actions[1:] >= 0)
        assert (repeated.mean() > 0.05) == (longest > 1)
        assert (explorer.choose(best, 0.0, rng) >= -1).all()
        assert (Explorer(64, 4, longest).choose(best, 1.0, rng) >= 0).all()


def test_games_end_a_life_and_press_fire():
    games = Games("breakout", 4, threads=1)
    assert games.actions[1] == "FIRE"

    def play():
        games.reset(5)
        rng = np.random.default_rng(1)
        found = []
        for _ in range(300):
            step = games.step(rng.choice([0, 2, 3], size=4))
            found.append((step.observations.copy(), step.actions, step.ends, step.over))
        return found

    first, second = play(), play()
    for a, b in zip(first, second, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
    ends, over = (np.stack([step[k] for step in first]) for k in (2, 3))
    actions = np.stack([step[1] for step in first])
    lost = ends & ~over
    assert lost.sum() > 4
    assert over.any()
    assert (actions[1:][lost[:-1]] == 1).all()
    assert (actions[1:][~lost[:-1]] != 1).all()
    games.close()


def stopped_after(run, segments):
    """Train only some segments, as an interruption between two would."""
    seen = 0
    save = run._save

    def counted():
        nonlocal seen
        save()
        seen += 1
        if seen == segments:
            raise KeyboardInterrupt

    run._save = counted
    with pytest.raises(KeyboardInterrupt):
        run.train()


def same_state(a, b):
    """Two states are equal to the bit."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return all(same_state(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same_state, a, b))
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return a == b


@pytest.mark.parametrize(
    "settings",
    [PQN, PQN.changed({"overlap": True, "density": "0.3:1,0.9:0.4"}), DQN, DISTIL],
    ids=["pqn", "overlapping pqn", "dqn", "distil"],
)
def test_a_resumed_run_equals_one_that_never_stopped(tmp_path, settings):
    shape = tiny()
    start = initial_tensors(shape, settings.seed)
    whole = Run(tmp_path / "whole", settings, shape=shape, start=start)
    assert whole.train()
    stopped_after(Run(tmp_path / "parts", settings, shape=shape, start=start), 1)
    stopped_after(Run(tmp_path / "parts", settings, shape=shape, start=start), 1)
    rest = Run(tmp_path / "parts", settings, shape=shape, start=start)
    assert 0 < rest.learner.frames < settings.frames
    assert rest.train()
    assert same_state(whole.learner.state(), rest.learner.state())
    assert same_state(whole.algorithm.state(), rest.algorithm.state())
    assert not same_state(start, dict(rest.learner.network.tensors))  # it learned something
    again = Run(tmp_path / "parts", settings, shape=shape, start=start)
    assert again.finished
    assert again.train()


def test_divergence_ignores_a_shift_and_grows_with_a_difference():
    values = torch.tensor([[0.1, 0.3, 0.2], [1.0, 0.9, 0.4]])
    assert float(divergence(values + 7, values, 0.1)) == pytest.approx(0, abs=1e-6)
    near, far = (float(divergence(values * (1 + d), values, 0.1)) for d in (0.1, 0.5))
    assert 0 < near < far
    wanted, found = torch.softmax(values / 0.1, 1), torch.softmax(values * 1.5 / 0.1, 1)
    by_hand = (wanted * (wanted / found).log()).sum(1).mean() * 0.1**2
    assert far == pytest.approx(float(by_hand), rel=1e-4)


def test_what_is_pruned_by_imitation_stays_like_its_teacher(tmp_path):
    """Far more than the teacher does whose small weights are just left out."""
    shape = tiny()
    start = initial_tensors(shape, 1)
    settings = DISTIL.changed({"frames": 4 * 64 * 60, "segment": 1e6, "density": "0:1,0.4:0.3"})
    run = Run(tmp_path, settings, shape=shape, start=start)
    assert run.train()
    assert run.learner.density == pytest.approx(0.3, abs=0.001)
    teacher = QNetwork(shape, start, precision="float32")
    cut = QNetwork(shape, start, precision="float32")
    pruning.apply_masks(
        cut.tensors,
        pruning.magnitude_masks(cut.weights, pruning.full_masks(cut.weights), 0.3, "global"),
    )
    games = Games("breakout", 8, threads=1)
    rng = np.random.default_rng(0)
    seen = [games.reset(5)]
    seen += [games.step(rng.integers(4, size=8)).observations for _ in range(40)]
    games.close()
    seen = torch.from_numpy(np.concatenate(seen[20:]))
    with torch.no_grad():
        wanted = teacher(seen)
        student, plain = (
            float(divergence(network(seen), wanted, settings.temperature))
            for network in (run.learner.network, cut)
        )
    assert student < plain / 4


def test_distillation_needs_a_teacher(tmp_path):
    with pytest.raises(UserError, match="give --from FILE"):
        Run(tmp_path / "run", DISTIL, shape=tiny())
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="a lottery learns from rewards"):
        Lottery(tmp_path, DISTIL)


def test_what_a_killed_dqn_wrote_after_its_checkpoint_is_forgotten(tmp_path):
    """The ring has room: nothing that the checkpoint's window holds is overwritten."""
    whole = Run(tmp_path / "whole", DQN, shape=tiny())
    assert whole.train()
    killed = Run(tmp_path / "killed", DQN, shape=tiny())
    stopped_after(killed, 2)
    going_on = Run(tmp_path / "killed", DQN, shape=tiny())
    going_on.algorithm.start(99)
    going_on.algorithm.advance(last=False)  # never saved
    rest = Run(tmp_path / "killed", DQN, shape=tiny())
    assert rest.train()
    assert same_state(whole.learner.state(), rest.learner.state())


def test_an_interruption_keeps_what_was_learned(tmp_path):
    settings = PQN.changed({"frames": 10_000_000, "segment": 10_000_000})
    run = Run(tmp_path, settings, shape=tiny())

    advance = run.algorithm.advance

    def interrupted(*, last):
        progress = advance(last=last)
        if not last:
            os.kill(os.getpid(), signal.SIGTERM)
        return progress

    run.algorithm.advance = interrupted
    before = signal.getsignal(signal.SIGTERM)
    assert run.train() is False
    assert signal.getsignal(signal.SIGTERM) is before
    frames = run.learner.frames
    assert 0 < frames < settings.frames
    assert Run(tmp_path, settings, shape=tiny()).learner.frames == frames


def test_a_run_leaves_its_files(tmp_path):
    settings = PQN.changed(
        {"density": "0.3:1,0.6:0.5,1:0.25", "evaluation": 1, "evaluation_episodes": 1}
    )
    assert Run(tmp_path, settings, shape=tiny(), origin="").train()
    facts = json.loads((tmp_path / "run.json").read_text())
    assert from_json(json.dumps(facts["settings"]), "run.json") == settings
    assert facts["origin"] == "random weights, seed 0"
    names = {path.stem for path in (tmp_path / "snapshots").iterdir()}
    assert names == {"first", "final", "density-1.000", "density-0.500", "density-0.250"}
    assert any(path.name.startswith("events.") for path in tmp_path.iterdir())
    with (tmp_path / "evaluations.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["frames"]) for row in rows] == [256, 512, 768]
    from reticent.importer import load_tensors

    final = load_tensors(tmp_path / "snapshots" / "final.safetensors")
    weights = [array for name, array in final.items() if name.endswith(".weight")]
    left = sum(np.count_nonzero(w) for w in weights) / sum(w.size for w in weights)
    assert left == pytest.approx(0.25, abs=0.01)


def test_rounds_rewind_to_the_initial_values(tmp_path):
    lottery = Lottery(tmp_path, PQN, rounds=2, rate=0.2, shape=tiny())
    first = initial_tensors(tiny(), PQN.seed)
    before = {}
    for number in range(3):
        run = lottery.run_round(number)
        assert run.learner.density == pytest.approx(round_density(number, 0.2), abs=1e-3)
        for name, tensor in run.learner.network.tensors.items():
            mask = run.learner.masks.get(name, torch.ones(1, dtype=torch.bool))
            assert torch.equal(tensor.detach(), first[name] * mask)  # zero, or as it began
        assert all(not (run.learner.masks[n] & ~m).any() for n, m in before.items())
        assert run.train()
        assert not same_state(first, dict(run.learner.network.tensors))
        before = dict(run.learner.masks)
        final = run.learner.network.tensors
        assert all((final[name][~mask] == 0).all() for name, mask in before.items())
    seeds = json.loads((tmp_path / "lottery.json").read_text())["seeds"]
    assert seeds == [0, 1000, 2000]


def test_a_lottery_goes_on_where_it_stopped(tmp_path):
    whole = Lottery(tmp_path / "whole", PQN, rounds=1, rate=0.5, shape=tiny())
    assert whole.train()
    stopped_after(
        Lottery(tmp_path / "parts", PQN, rounds=1, rate=0.5, shape=tiny()).run_round(0), 2
    )
    rest = Lottery(tmp_path / "parts", PQN, rounds=1, rate=0.5, shape=tiny())
    assert rest.train()
    a, b = (files.load_checkpoint(one.round_folder(1) / "checkpoint.pt") for one in (whole, rest))
    assert same_state(a["learner"], b["learner"])
    with pytest.raises(UserError, match="holds a lottery with other settings"):
        Lottery(tmp_path / "parts", PQN, rounds=2, rate=0.5, shape=tiny())


def test_gradual_pruning_passes_the_rounds_densities():
    waypoints = gradual_settings(PQN, 10, 0.2).density
    assert [d for _, d in waypoints] == pytest.approx([0.8**k for k in range(11)])
    assert waypoints[0][0] == pytest.approx(0.4)
    assert waypoints[-1][0] == pytest.approx(0.95)
    with pytest.raises(UserError, match="leave it out"):
        gradual_settings(PQN.changed({"density": "0.5:0.5"}), 10, 0.2)


def test_replay_stacks_frames_as_they_were_seen(tmp_path):
    games = Games("breakout", 3, threads=1)
    seen = [games.reset(0).copy()]
    replay = Replay(tmp_path, steps=60, spare=20, games=3, shape=(4, 84, 84))
    rng = np.random.default_rng(0)
    ages = np.zeros(3, np.int64)
    steps = []
    for t in range(200):
        step = games.step(rng.integers(4, size=3))
        last = t == 150  # the end of a segment
        replay.add(seen[-1][:, -1], ages, step.actions, step.rewards, step.ends, last=last)
        steps.append(step)
        ages = np.where(step.over, 0, ages + 1)
        seen.append(step.observations.copy())
        if last:
            seen[-1] = games.reset(1).copy()
            ages = np.zeros(3, np.int64)
    games.close()
    assert replay.size == 180
    sample = replay.draw(500, rng)
    known = {}
    for t in range(200 - 61, 199):
        for game in range(3):
            known.setdefault(seen[t][game].tobytes(), []).append((t, game))
    for i in range(500):
        places = known[sample.observations[i].tobytes()]
        assert any(
            t != 150
            and sample.following[i].tobytes() == seen[t + 1][game].tobytes()
            and sample.actions[i] == steps[t].actions[game]
            and sample.rewards[i] == steps[t].rewards[game]
            and sample.ends[i] == steps[t].ends[game]
            for t, game in places
        )


def test_replay_without_room_is_refused(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"needs .* GB \(No space left on device\): make room"):
        Replay(tmp_path, steps=10, spare=1, games=1, shape=(4, 84, 84))


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    files.save_checkpoint(path, {"a": torch.ones(3)})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\).*kept"):
        files.save_checkpoint(path, {"a": torch.zeros(3)})
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert files.load_checkpoint(path)["a"].tolist() == [1, 1, 1]


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path):
    assert Run(tmp_path / "run", PQN, shape=tiny()).train()
    path = tmp_path / "run" / "checkpoint.pt"
    content = path.read_bytes()
    for damage in (content[: len(content) // 2], b"", b"no checkpoint at all"):
        path.write_bytes(damage)
        with pytest.raises(UserError, match="damaged or holds more than tensors"):
            Run(tmp_path / "run", PQN, shape=tiny())
    torch.save({"format": "another"}, path)
    with pytest.raises(UserError, match="none of ours"):
        Run(tmp_path / "run", PQN, shape=tiny())
    torch.save({"format": "reticent-training"}, path)
    with pytest.raises(UserError, match="not complete"):
        Run(tmp_path / "run", PQN, shape=tiny())
    other = Run(tmp_path / "other", PQN)  # the reference network
    other._save()
    path.write_bytes(other.checkpoint.read_bytes())
    with pytest.raises(UserError, match="holds another network"):
        Run(tmp_path / "run", PQN, shape=tiny())


def test_a_folder_of_another_run_is_refused(tmp_path):
    Run(tmp_path, PQN, shape=tiny())
    with pytest.raises(UserError, match="another seed, gamma"):
        Run(tmp_path, PQN.changed({"gamma": 0.9, "seed": 2}), shape=tiny())
    with pytest.raises(UserError, match="another origin"):
        Run(tmp_path, PQN, shape=tiny(), origin="elsewhere", start=initial_tensors(tiny(), 0))
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        Run(tmp_path, PQN, shape=tiny())


def test_a_network_of_another_game_is_refused(tmp_path):
    with pytest.raises(UserError, match="3 outputs, breakout has 4 actions"):
        Run(tmp_path / "a", PQN, shape=tiny(3))
    with pytest.raises(UserError, match="holds another network"):
        Run(tmp_path / "b", PQN, shape=tiny(), start=initial_tensors(tiny(3), 0), origin="x.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamm": 1}, "did you mean gamma"),
        ({"frames": "many"}, "frames is 'many'"),
        ({"frames": 0}, "frames is 0"),
        ({"minibatch": 100}, "minibatch is 100: give a divisor"),
        ({"density": "0.5:0.2,0.4:0.1"}, "density has 0.4:0.1 after 0.5:0.2"),
        ({"density": "0.5"}, "density is '0.5'"),
        ({"overlap": "perhaps"}, "true or false"),
        ({"pruning": "none"}, "pruning is 'none'"),
        ({"gradient_clip": 0}, "gradient_clip is 0"),
        ({"algorithm": "ppo"}, "algorithm is 'ppo'"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        PqnSettings().changed(change)


def test_presets_are_whole_settings():
    assert {"fast", "published", "distil"} <= set(presets())
    for name in presets():
        settings = preset(name)
        assert from_json(settings.to_json(), name) == settings
    with pytest.raises(UserError, match="there is no preset 'slow': give distil, fast"):
        preset("slow")


def test_settings_read_from_a_command_line():
    settings = PqnSettings().changed(
        {"frames": "2e6", "overlap": "true", "density": "0.3:1,0.8:0.2", "gamma": "0.9"}
    )
    assert settings.frames == 2_000_000
    assert settings.overlap is True
    assert settings.density == ((0.3, 1.0), (0.8, 0.2))
    assert settings.gamma == 0.9


def test_evaluation_is_repeatable_and_counts():
    from reticent.engine import FloatEngine

    network = reference_network(4, seed=1, density=0.2)
    first = evaluate(FloatEngine(network, 0.01), "breakout", 2)
    assert first == evaluate(FloatEngine(network, 0.01), "breakout", 2)
    assert len(first.scores) == 2
    assert first.dense == (3_276_800, 1_327_104, 294_912, 524_288, 2_048)
    assert first.neurons == (28_224, 12_800, 2_592, 1_024, 512)
    assert 0 < first.fraction < 0.2
    every = evaluate(FloatEngine(network, 0.0), "breakout", 2)
    assert every.fraction > first.fraction
    with pytest.raises(UserError, match="0 episodes"):
        evaluate(FloatEngine(network, 0.0), "breakout", 0)


def test_interval_holds_the_mean():
    scores = np.random.default_rng(0).normal(50, 20, 30)
    low, high = interval(scores)
    assert low < scores.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * scores.std() / np.sqrt(30), rel=0.1)
    assert interval([7, 7, 7]) == (7, 7)
