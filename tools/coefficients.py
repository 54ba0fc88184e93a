"""Print the polynomial coefficients of `fastsoftmax/_kernels/elementary.py` and what they cost in accuracy.

    python tools/coefficients.py

Each is a minimax fit (Remez exchange in 60 digits), rounded to the dtype. Needs mpmath.
"""

import mpmath as mp
import numpy as np

mp.mp.dps = 60


def remez(function, weight, low, high, terms, rounds=12):
    """Coefficients c of sum(c[i]*x**i) that minimise the largest ``|weight*(function - sum)|`` on [low, high]."""
    nodes = [(low + high) / 2 - (high - low) / 2 * mp.cos(mp.pi * i / terms) for i in range(terms + 1)]
    for _ in range(rounds):
        system = mp.matrix(terms + 1, terms + 1)
        right = mp.matrix(terms + 1, 1)
        for row, x in enumerate(nodes):
            for power in range(terms):
                system[row, power] = x**power
            system[row, terms] = (-1) ** row / weight(x)
            right[row] = function(x)
        solution = mp.lu_solve(system, right)
        c = [solution[i] for i in range(terms)]

        def error(x, c=c):
            return weight(x) * (function(x) - mp.polyval(c[::-1], x))

        nodes = extrema(error, low, high, terms + 1)
    return c, max(abs(error(x)) for x in nodes)


def extrema(error, low, high, count, grid=600):
    """The `count` alternating extrema of `error`, from a grid sharpened by golden sections."""
    points = [low + (high - low) * i / grid for i in range(grid + 1)]
    values = [error(p) for p in points]
    best = []
    for point, value in zip(points, values, strict=True):
        if best and (value > 0) == (best[-1][1] > 0):
            if abs(value) > abs(best[-1][1]):
                best[-1] = (point, value)
        else:
            best.append((point, value))
    while len(best) > count:
        best.pop(0 if abs(best[0][1]) < abs(best[-1][1]) else -1)
    return [p for p, _ in best]


def unit(steps):
    """The float32 number u in [1, 2**(1/steps)) whose ``u * 2**(j/steps)`` are nearest to float32 numbers, times 2**23.

    And how many ulp of a number next to 2 the worst of them is off.
    """
    tries = np.arange(2**23, int(2**23 * 2 ** (1 / steps)) + 1).astype(np.longdouble)
    worst = np.zeros(len(tries))
    for j in range(1, steps):
        powers = tries * np.longdouble(2) ** (np.longdouble(j) / steps)
        worst = np.maximum(worst, np.abs(np.rint(powers) - powers) / powers * 2**23)
    best = np.argmin(worst)
    return int(tries[best]), float(worst[best]) * 2


def show(title, coefficients, error, dtype):
    """Print one fit."""
    print(f"\n{title}: largest error {mp.nstr(error, 3)}")
    for c in coefficients:
        print(f"    {float(dtype(float(c))).hex() if dtype is np.float64 else repr(float(dtype(float(c))))},")


def main():
    """Print all fits."""
    ln2 = mp.log(2) * mp.mpf("1.0001")

    def tail(r):
        return (mp.exp(r) - 1 - r) / r**2 if abs(r) > mp.mpf(10) ** -15 else mp.mpf(1) / 2 + r / 6

    def relative(r):
        return max(r**2, mp.mpf(10) ** -12) / mp.exp(r)

    for dtype, steps, terms in ((np.float32, 8, 3), (np.float64, 1, 10), (np.float64, 1, 6)):
        half = ln2 / (2 * steps)
        show(
            f"(exp(r)-1-r)/r**2, {dtype.__name__} in {steps} steps",
            *remez(tail, relative, -half, half, terms),
            dtype,
        )
    print("\nunit of float32: {}/2**23, its powers within {:.3f} ulp".format(*unit(8)))

    edge = ((mp.sqrt(2) - 1) / (mp.sqrt(2) + 1)) ** 2 * mp.mpf("1.0001")

    def atanh_tail(z):
        s = mp.sqrt(z)
        return (2 * mp.atanh(s) - 2 * s) / (s * z) if z > mp.mpf(10) ** -20 else mp.mpf(2) / 3

    show(
        "(2*atanh(s)-2*s)/s**3 in s**2, float64",
        *remez(atanh_tail, lambda z: max(z, mp.mpf(10) ** -12), mp.mpf(0), edge, 7),
        np.float64,
    )

    def atanh(z):
        s = mp.sqrt(z)
        return 2 * mp.atanh(s) / s if z > mp.mpf(10) ** -20 else mp.mpf(2)

    show(
        "2*atanh(s)/s in s**2, to float32's digits",
        *remez(atanh, lambda z: 1 / atanh(z), mp.mpf(0), edge, 4),
        np.float64,
    )


if __name__ == "__main__":
    main()
