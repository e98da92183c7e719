"""The words of the small games, in one place: which classes each task type can ask for, and where.

A policy of half a million parameters can learn these, and a skill that lists their usual places
stays short. Each object class lives in one room; every `USUAL` class exists in that room's
held-out scene too, so that a home's habits hold in valid_unseen.
"""

from collections.abc import Mapping

TASK_OBJECTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "pick_and_place_simple": {
        "kitchen": ("Mug", "Plate", "Spoon"),
        "bedroom": ("Book", "Pen"),
        "livingroom": ("Newspaper", "RemoteControl"),
        "bathroom": ("SoapBottle",),
    },
    "look_at_obj_in_light": {"bedroom": ("Book", "CD", "CellPhone", "KeyChain", "Pen", "Pencil")},
    "pick_clean_then_place_in_recep": {
        "kitchen": ("Apple", "Fork", "Lettuce", "Mug", "Plate", "Spoon"),
        "bathroom": ("Cloth", "SoapBar"),
    },
    "pick_heat_then_place_in_recep": {
        "kitchen": ("Apple", "Bread", "Egg", "Mug", "Plate", "Potato", "Tomato")
    },
    "pick_cool_then_place_in_recep": {
        "kitchen": ("Apple", "Bread", "Egg", "Lettuce", "Mug", "Potato", "Tomato")
    },
    "pick_two_obj_and_place": {
        "kitchen": ("Spoon", "Tomato"),
        "bedroom": ("CellPhone", "Pencil"),
        "livingroom": ("CreditCard", "RemoteControl"),
        "bathroom": ("SoapBar", "ToiletPaper"),
    },
}
USUAL: Mapping[str, tuple[str, ...]] = {
    "kitchen": (
        *("Cabinet", "CounterTop", "Drawer", "Fridge"),
        *("GarbageCan", "Microwave", "SinkBasin"),
    ),
    "livingroom": ("ArmChair", "Drawer", "SideTable", "Sofa"),
    "bedroom": ("Bed", "Desk", "Drawer", "Shelf"),
    "bathroom": ("Cabinet", "CounterTop", "GarbageCan", "SinkBasin", "Toilet"),
}
"""Receptacle classes a habit may name, before `VAL_RECEPTACLE_OBJECTS` has its say."""
FURNITURE: Mapping[str, tuple[str, ...]] = {
    "kitchen": (*USUAL["kitchen"], "DiningTable", "Shelf"),
    "livingroom": (*USUAL["livingroom"], "CoffeeTable", "GarbageCan", "Shelf"),
    "bedroom": (*USUAL["bedroom"], "GarbageCan", "SideTable"),
    "bathroom": (*USUAL["bathroom"], "Drawer", "HandTowelHolder", "ToiletPaperHanger"),
}
"""Receptacle classes a thinned room may contain."""
LAMP_HOSTS = ("Desk", "Shelf")
APPLIANCE = {
    "pick_clean_then_place_in_recep": "SinkBasin",
    "pick_heat_then_place_in_recep": "Microwave",
    "pick_cool_then_place_in_recep": "Fridge",
}
"""The receptacle class a task type's state change needs."""


def room_objects(room: str) -> tuple[str, ...]:
    """All object classes of a room's small games, sorted."""
    return tuple(sorted({kind for rooms in TASK_OBJECTS.values() for kind in rooms.get(room, ())}))
