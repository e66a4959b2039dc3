"""`localknobs verify`: whether a GGUF file is the model of its checkpoint; the verdict in one screen."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from localknobs.cli.output import facts, heading, note, print_json
from localknobs.cli.progress import run_job
from localknobs.library import find_model
from localknobs.paths import user_path


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.description = (
        "Compare a GGUF file with the Hugging Face checkpoint it was made from: tokens, chat template, begin and end "
        "tokens, and logits, against what transformers computes in float32. Needs the extra `train`. "
        "Exit code 0 when the file passes, 1 when not."
    )
    add = parser.add_argument
    add("source", metavar="SRC", type=Path, help="folder of the checkpoint: config.json, weights, tokenizer")
    add("model", metavar="GGUF", help="the file made from it, of any type")
    add(
        "--lora", metavar="A[:SCALE]", action="append", default=[],
        help="an adapter that was merged on the way, and how strongly; may be given again, in the same order",
    )  # fmt: skip
    add("--prompts", metavar="N", type=int, default=20, help="prompts whose logits are compared, 1 to 20; default 20")
    add("-t", "--threads", metavar="N", type=int, default=0, help="threads; default: all physical cores")
    add("--json", action="store_true", help="print a JSON object")


def run(options: Namespace) -> int:
    """Compare, and say what came of it."""
    from localknobs.convert.adapter import parse_lora
    from localknobs.convert.verify import VerifyConfig, plan_verify, verify

    loras = tuple(map(parse_lora, options.lora))
    config = VerifyConfig(user_path(options.source), find_model(options.model), options.prompts, options.threads, loras)
    plan = plan_verify(config)
    verdict = run_job(verify(plan))
    distance, limits = verdict.distance, verdict.limits
    numbers = {
        "places": distance.places,
        "max_difference": distance.largest,
        "mean_difference": distance.mean,
        "top_token_share": distance.top_share,
        "kl_mean": distance.kl_mean,
        "kl_worst": distance.kl_worst,
    } if distance and not distance.not_finite else None  # fmt: skip
    if options.json:
        print_json({
            "source": config.source, "loras": [{"path": lora.path, "scale": lora.scale} for lora in loras],
            "model": config.model, "type": plan.header.quant, "passed": verdict.passed,
            "checks": [{"name": check.name, "passed": check.passed, "found": check.found} for check in verdict.checks],
            "logits": numbers,
            "limits": {
                "max_difference": limits.most_difference, "kl_mean": limits.most_kl,
                "top_token_share": limits.least_top, "normal": limits.normal,
            },
            "notes": verdict.notes,
        })  # fmt: skip
        return 0 if verdict.passed else 1
    named = " and ".join(f"{lora.path.name} at {lora.scale:g}" for lora in loras)
    merged = f" with {named}" if named else ""
    print(heading(f"{config.model} ({plan.header.quant}) against {config.source}{merged}"))
    print(facts((check.name, f"{'ok' if check.passed else 'WRONG'}: {check.found}") for check in verdict.checks))
    if distance and numbers:
        print(facts([
            ("  difference", f"max {distance.largest:.3g}, mean {distance.mean:.3g}"),
            ("  top token", f"the same at {distance.top_share:.2%} of the places"),
            ("  KL divergence", f"mean {distance.kl_mean:.3g}, worst {distance.kl_worst:.3g}"),
            ("  normal", limits.normal),
        ]))  # fmt: skip
    wrong = [check.name for check in verdict.checks if not check.passed]
    print(heading(f"FAIL: {', '.join(wrong)}" if wrong else "PASS"))
    for text in verdict.notes:
        note(text)
    return 1 if wrong else 0
