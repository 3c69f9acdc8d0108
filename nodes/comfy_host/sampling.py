"""What one sampling run knows: which conditioning is positive or negative, which streams act now, and the projected tokens.

It lives in the guider's model options, made by the OUTER_SAMPLE wrapper, and is dropped with the run.
"""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from ...deepexpo_models.meaf import MEAF, FusedStream, SiteTokens, StreamSettings, resize_mask

logger = logging.getLogger(__name__)
NEGATIVE_NAMES = (
    "neg",
    "uncond",
    "empty",
)  # guiders name their conditionings freely: negative, empty_negative_prompt, ...


@dataclass(frozen=True, eq=False)
class PatchStream:
    """One stream of a MEAF as applied: its codes (B, width), settings, mask (M, H, W) or None.

    region: identifies the mask's content, "" for the whole picture. A later application of the same stream to the same
    region replaces an earlier one.
    """

    meaf: MEAF
    name: str
    codes: Tensor
    settings: StreamSettings
    mask: Tensor | None
    region: str

    def __deepcopy__(self, memo):
        return self


def check_batch(streams: tuple[PatchStream, ...], latents: int) -> None:
    """Raise ValueError unless each stream has one code (and mask), or one per latent."""
    for stream in streams:
        for what, count in (
            ("codes", len(stream.codes)),
            ("masks", len(stream.mask) if stream.mask is not None else 1),
        ):
            if count not in (1, latents):
                raise ValueError(
                    f"the {stream.name} stream has {count} {what} for {latents} latents; "
                    f"connect one, or set the batch size of the latent to {count}"
                )


def roles_by_uuid(conds: dict[str, list[dict]]) -> dict:
    """uuid of each conditioning -> "cond" or "uncond", by the name its guider gave it."""
    return {
        cond["uuid"]: "uncond" if any(word in name for word in NEGATIVE_NAMES) else "cond"
        for name, group in conds.items()
        for cond in group
        if "uuid" in cond
    }


def roles_by_position(count: int) -> tuple[str, ...]:
    """ComfyUI's usual order, for callers without a guider: positive first."""
    return ("cond",) + ("uncond",) * (count - 1)


class SamplingRun:
    """State of one run. Not copied with model options: ComfyUI clones them per step."""

    def __init__(self, streams: tuple[PatchStream, ...], model_sampling, roles: dict):
        self.streams = streams
        self.roles = roles
        self.active: tuple[PatchStream, ...] | None = None  # None: no step has begun
        self._sigmas = {
            stream: (
                model_sampling.percent_to_sigma(stream.settings.end_percent),
                model_sampling.percent_to_sigma(stream.settings.start_percent),
            )
            for stream in streams
        }
        self._tokens: dict[tuple, Tensor] = {}
        self._projected: dict[tuple, SiteTokens] = {}
        self._masks: dict[tuple, Tensor] = {}
        self._warned = False

    def __deepcopy__(self, memo):
        return self

    def at_sigma(self, sigma: float) -> tuple[PatchStream, ...]:
        """The streams that act at this noise level."""
        return tuple(
            stream
            for stream in self.streams
            if stream.settings.strength != 0 and self._sigmas[stream][0] <= sigma <= self._sigmas[stream][1]
        )

    def list_roles(self, conds: list[list[dict] | None]) -> tuple[str, ...]:
        """Role of each list that calc_cond_batch got. The first conditioning decides: copies that ComfyUI appends to
        balance areas carry the other side's uuid."""
        defaults = roles_by_position(len(conds))
        return tuple(
            self.roles.get(group[0].get("uuid"), default) if group else default for group, default in zip(conds, defaults)
        )

    def fused(self, stream: PatchStream, site: str, query: Tensor, size: tuple[int, int], roles, rows) -> FusedStream:
        """The stream's part at one layer of one call. query (roles * rows, L, C); size: height and width of L;
        rows: index in the run's batch of each latent in the call."""
        tokens = [self._select(self._project(stream, site, role, query), rows) for role in roles]
        return FusedStream(
            SiteTokens(
                torch.cat([part.key for part in tokens]),
                torch.cat([part.value for part in tokens]),
                tokens[0].null_logit,
            ),
            stream.settings.strength,
            self._mask(stream, query, size, roles, rows),
        )

    def warn_once(self, sentence: str) -> None:
        if not self._warned:
            logger.warning(sentence)
        self._warned = True

    def _project(self, stream: PatchStream, site: str, role: str, query: Tensor) -> SiteTokens:
        key = (stream, site, role, query.device, query.dtype)
        if key not in self._projected:
            self._projected[key] = stream.meaf.project(stream.name, site, self._role_tokens(stream, role, query))
        return self._projected[key]

    def _role_tokens(self, stream: PatchStream, role: str, query: Tensor) -> Tensor:
        key = (stream, role, query.device, query.dtype)
        if key not in self._tokens:
            tokens = stream.meaf.tokens if role == "cond" else stream.meaf.null_tokens
            self._tokens[key] = tokens(stream.name, stream.codes.to(query)).to(query)
        return self._tokens[key]

    def _mask(self, stream: PatchStream, query: Tensor, size: tuple[int, int], roles, rows) -> Tensor | None:
        if stream.mask is None:
            return None
        key = (stream, size, query.device, query.dtype)
        if key not in self._masks:
            self._masks[key] = resize_mask(stream.mask.to(query.device), *size).to(query.dtype)
        return _rows(self._masks[key], rows).repeat(len(roles), 1, 1)

    @staticmethod
    def _select(tokens: SiteTokens, rows) -> SiteTokens:
        return SiteTokens(_rows(tokens.key, rows), _rows(tokens.value, rows), tokens.null_logit)


@dataclass(frozen=True, eq=False)
class StreamCall:
    """The streams that act in one call of the U-Net.

    roles: "cond" or "uncond" per chunk of the batch; rows: index in the run's batch of each latent of a chunk.
    """

    run: SamplingRun
    active: tuple[PatchStream, ...]
    roles: tuple[str, ...]
    rows: tuple[int, ...]

    def fused(self, stream: PatchStream, site: str, query: Tensor, size: tuple[int, int]) -> FusedStream:
        """A stream's part at one layer; query (roles * rows, L, C), size: height and width of L."""
        return self.run.fused(stream, site, query, size, self.roles, self.rows)

    def mask(self, stream: PatchStream, device: torch.device) -> Tensor | None:
        """(roles * rows, H, W) in [0, 1]."""
        if stream.mask is None:
            return None
        return _rows(stream.mask.to(device), self.rows).repeat(len(self.roles), 1, 1)


def _rows(x: Tensor, rows: tuple[int, ...]) -> Tensor:
    """x (1 or N, ...) -> (len(rows), ...). No index tensor: it would have to be sent to the device at each layer."""
    if len(x) == 1:
        return x.expand(len(rows), *x.shape[1:])
    return x if rows == tuple(range(len(x))) else torch.stack([x[row] for row in rows])
