"""Tables of the colour maps that heatmaps are drawn in.

Viridis and inferno are matplotlib's (CC0). Each is packed as 256 RGB triples of
bytes: differences between neighbours modulo 256 (the first from black), deflated,
in base 85.
"""

from __future__ import annotations

import base64
import zlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt

_VIRIDIS = (
    "c-"
    "nQ4feiyO2m?)iwT{sJNBI<tLui{<E9*F%yp)%{VZ(owh%_6+6Uvy=Zz)b_+a+fJO7^ihzz7<%fGkXLt>8B&bos^O"
    "xc$kx_FUK_4xOj78}L+^|2IgY<V0I_X?=?{J!7jEU0%<S?=9Gz4=i3uNvJ=L<K6iZhr9|xrpfX4PNetQS*gx01m~"
    "%ne$ueXLL8KtIxEPpg9TgxM({MUkq5zZd;k$Khzb"
)
_INFERNO = (
    "c-oDU0S?132m>)>|Nn7WutSqh(=;`*&JGQ2gxP@22WAd)g9{))h?i~~Q@smZNdZ+{=Y*e-"
    "u3YTZwX_**Pk`8(XS&s)-1yPTt*!lKSD4Q*Rk@(TWV=-+`wa7&%|4tzydd}MyR4bI%Vd8--5M@D?1W2vhn0M@c5e"
    "B!*Ker$gA1naJUKhbTh_uoO1wKxf%iC^Q{Zvfn<JsEP)#oW&_SSL(2larD0r1(fOak~jRKE1CMRv6"
)


@lru_cache(maxsize=3)
def table(name: str) -> npt.NDArray[np.uint8]:
    """RGB of a colour map's 256 levels.

    Args:
        name: "viridis", "inferno" or "jet" (OpenCV's; matplotlib's differs).

    Returns:
        uint8 [256, 3], read-only, since callers share it.

    Raises:
        KeyError: No such colour map.
    """
    if name == "jet":
        ramp = np.abs(4 * np.arange(256)[:, None] / 255 - np.array([3, 2, 1]))
        colors: npt.NDArray[np.uint8] = np.rint(255 * np.clip(1.5 - ramp, 0, 1)).astype(np.uint8)
    else:
        packed = {"viridis": _VIRIDIS, "inferno": _INFERNO}[name]
        steps = np.frombuffer(zlib.decompress(base64.b85decode(packed)), np.uint8)
        colors = np.cumsum(steps.reshape(256, 3), axis=0, dtype=np.uint8)
    colors.setflags(write=False)
    return colors
