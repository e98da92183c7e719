"""What real ALFWorld rooms look like, counted over 440 games (300 of train, all of valid_seen).

`full` games are drawn to resemble them.
"""

from collections.abc import Mapping

# Room: receptacle class, pieces per game, objects per piece at the start.
_COUNTED = {
    "kitchen": """
        Cabinet 13.34 0.43, Drawer 6.28 0.56, StoveBurner 4.14 0.66, CounterTop 2.46 6.56,
        Microwave 1.11 0.94, Fridge 1.11 3.67, CoffeeMachine 1.06 0.40, GarbageCan 1.06 1.22,
        Toaster 1.00 0.01, SinkBasin 1.00 2.48, DiningTable 0.86 8.66, Shelf 0.72 1.17,
        SideTable 0.17 2.78, Safe 0.06 0.01
    """,
    "livingroom": """
        Drawer 5.62 0.18, SideTable 2.11 1.81, Shelf 1.62 0.77, ArmChair 1.58 0.75, Sofa 1.34 2.49,
        CoffeeTable 1.08 3.07, GarbageCan 1.02 0.04, DiningTable 0.62 5.30, Cabinet 0.55 0.01,
        Dresser 0.49 2.96, TVStand 0.36 3.74, Ottoman 0.21 0.82, Desk 0.06 0.67, Safe 0.06 0.01
    """,
    "bedroom": """
        Drawer 6.23 0.53, Shelf 3.04 0.93, Bed 1.18 4.13, GarbageCan 1.01 0.27, Desk 0.96 5.69,
        SideTable 0.91 2.64, Dresser 0.61 4.14, ArmChair 0.28 0.70, Safe 0.28 0.56,
        LaundryHamper 0.26 0.01, Cabinet 0.26 0.64, DiningTable 0.10 6.80, CounterTop 0.03 6.33
    """,
    "bathroom": """
        Drawer 2.70 0.43, Cabinet 2.08 1.01, SinkBasin 1.51 0.46, HandTowelHolder 1.49 0.82,
        Toilet 1.28 1.92, TowelHolder 1.27 0.88, GarbageCan 1.12 0.59, ToiletPaperHanger 1.08 0.23,
        CounterTop 0.99 3.11, BathtubBasin 0.70 1.40, Shelf 0.57 1.76, Cart 0.18 1.31,
        SideTable 0.14 3.50, Dresser 0.09 1.43
    """,
}
FURNITURE: Mapping[str, Mapping[str, tuple[float, float]]] = {
    room: {
        kind: (float(pieces), float(objects))
        for kind, pieces, objects in (entry.split() for entry in table.split(","))
    }
    for room, table in _COUNTED.items()
}
RARE = (0.2, 0.5)
"""Pieces and load of a class not met in that room."""
COPIES = {1: 0.40, 2: 0.32, 3: 0.28}
"""Copies of a pickupable class, where the scene has it."""
TARGET_COPIES = {2: 0.28, 3: 0.22, 4: 0.26, 5: 0.19, 6: 0.05}
"""Copies of the target, over all 4,026 solvable games."""
LOOSE_COPIES = {"StoveKnob": 4, "Window": 2, "Chair": 2, "Painting": 2}
"""Things an agent cannot carry, where there is usually more than one."""
LAMP_HOSTS = ("Desk", "SideTable", "Dresser", "Shelf", "CoffeeTable", "DiningTable")
CLOSED_PULL = 1.7
"""Closed furniture may hold fewer classes than a counter, so to end up with its real share of the
objects it has to draw those it may hold more strongly."""


def pull(room: str, kind: str, openable: bool) -> float:
    """How strongly a piece of furniture draws the objects it may hold."""
    return FURNITURE[room].get(kind, RARE)[1] * (CLOSED_PULL if openable else 1.0)


def share(room: str, kind: str) -> float:
    """Objects that this class of furniture holds in a room, all pieces together."""
    pieces, objects = FURNITURE[room].get(kind, RARE)
    return pieces * objects
