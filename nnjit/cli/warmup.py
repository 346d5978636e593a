"""`nnjit warmup`."""

from __future__ import annotations

import click

from nnjit.cli.options import overrides_option, threads_option


@click.command()
@click.argument("configs", nargs=-1, metavar="[CONFIG]...")
@overrides_option()
@threads_option
def warmup(configs: tuple[str, ...], overrides: tuple[str, ...]) -> None:
    """Compile kernels ahead of time.

    With configs, compiles what training them needs; their data must be there. Without, compiles what some usual
    networks need. Kernels are kept in the cache folder that `nnjit info` shows.
    """
    import time

    from nnjit.cli.compiling import compiling
    from nnjit.config import load_config
    from nnjit.prepare import prepare
    from nnjit.warmup import examples, warm_up

    loaded = [load_config(config, overrides) for config in configs]
    tasks = ((item.name, item.config, prepare(item)) for item in loaded) if loaded else examples()
    for name, config, dataset in tasks:
        start = time.perf_counter()
        with compiling(quiet=True) as kernels:
            warm_up(config, dataset)
        click.echo(f"{name}: compiled {sum(kernels.values())}, {time.perf_counter() - start:.1f} s")
