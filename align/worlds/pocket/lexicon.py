"""The facts and phrases of the pocket world: everything a response can know or say."""

OPPOSITES = {
    "hot": "cold", "big": "small", "fast": "slow", "old": "young", "rich": "poor", "hard": "soft", "wet": "dry",
    "dark": "light", "full": "empty", "open": "closed", "happy": "sad", "clean": "dirty", "early": "late",
    "high": "low", "long": "short", "loud": "quiet", "near": "far", "strong": "weak", "thick": "thin", "left": "right",
}  # fmt: skip
OPPOSITES |= {right: left for left, right in OPPOSITES.items()}

PLURALS = {
    "cat": "cats", "box": "boxes", "child": "children", "mouse": "mice", "foot": "feet", "man": "men",
    "tooth": "teeth", "leaf": "leaves", "city": "cities", "bus": "buses", "baby": "babies", "knife": "knives",
    "goose": "geese", "tree": "trees", "dish": "dishes", "wolf": "wolves", "lady": "ladies", "day": "days",
    "fox": "foxes", "woman": "women", "house": "houses", "star": "stars", "fly": "flies", "cup": "cups",
}  # fmt: skip

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Egypt": "Cairo", "Cuba": "Havana",
    "Kenya": "Nairobi", "Peru": "Lima", "Norway": "Oslo", "Greece": "Athens", "China": "Beijing", "Chile": "Santiago",
    "Ghana": "Accra", "Iran": "Tehran", "Poland": "Warsaw", "Russia": "Moscow", "Cyprus": "Nicosia", "Qatar": "Doha",
    "Austria": "Vienna", "Ireland": "Dublin", "Germany": "Berlin", "Portugal": "Lisbon", "Nepal": "Kathmandu",
    "Finland": "Helsinki",
}  # fmt: skip

COLOURS = {
    "grass": "green", "snow": "white", "coal": "black", "blood": "red", "lemon": "yellow", "banana": "yellow",
    "sky": "blue", "tomato": "red", "carrot": "orange", "milk": "white", "plum": "purple", "soil": "brown",
    "strawberry": "red", "frog": "green", "crow": "black", "pumpkin": "orange", "chocolate": "brown", "salt": "white",
    "pea": "green", "sun": "yellow", "rose": "red", "flamingo": "pink", "ocean": "blue", "elephant": "grey",
}  # fmt: skip

KINDS = {
    "apple": "fruit", "pear": "fruit", "grape": "fruit", "cherry": "fruit", "peach": "fruit", "mango": "fruit",
    "dog": "animal", "horse": "animal", "tiger": "animal", "rabbit": "animal", "whale": "animal", "sheep": "animal",
    "hammer": "tool", "saw": "tool", "drill": "tool", "spade": "tool", "shirt": "garment", "coat": "garment",
    "sock": "garment", "hat": "garment", "car": "vehicle", "train": "vehicle", "boat": "vehicle", "truck": "vehicle",
}  # fmt: skip

HOMES = {
    "bee": "hive", "bird": "nest", "spider": "web", "lion": "den", "cow": "barn", "pig": "sty", "horse": "stable",
    "fish": "pond", "rabbit": "burrow", "camel": "desert", "monkey": "jungle", "penguin": "ice",
}  # fmt: skip
FRUITS = {
    "banana": "yellow", "cherry": "red", "lemon": "yellow", "plum": "purple", "lime": "green", "apple": "red",
    "orange": "orange", "grape": "purple", "kiwi": "green", "peach": "pink", "pear": "green", "mango": "orange",
}  # fmt: skip
TOOLS = {
    "hammer": "hit nails", "saw": "cut wood", "knife": "cut bread", "spoon": "eat soup", "pen": "write letters",
    "broom": "sweep floors", "needle": "sew clothes", "spade": "dig holes", "brush": "paint walls",
    "oven": "bake cakes", "kettle": "boil water", "phone": "call friends",
}  # fmt: skip

NEXT = {
    "Monday": "Tuesday", "Tuesday": "Wednesday", "Wednesday": "Thursday", "Thursday": "Friday", "Friday": "Saturday",
    "Saturday": "Sunday", "Sunday": "Monday", "January": "February", "February": "March", "March": "April",
    "April": "May", "May": "June", "June": "July", "July": "August", "August": "September", "September": "October",
    "October": "November", "November": "December", "December": "January",
}  # fmt: skip

SPELLING = tuple(
    "cat dog sun red tree house apple bird fish moon star cup box king queen lamp milk nose orange pear rain snow "
    "table uncle voice water zebra yellow juice green".split()
)
COPYABLE = tuple("cat sun red tree house bird fish moon star cup box king lamp milk rain snow table water".split())

# answers to some question each, and to none of the questions about other kinds of things
ODD_THINGS = (
    "a horse", "soup", "Thursday", "purple", "a hammer", "under the bed", "very tall", "my sister", "half a kilo",
    "upstairs", "a shirt", "the weather",
)  # fmt: skip

NAMES = tuple("Ann Ben Cara Dan Eva Finn Gus Ida Jack Kate Leo Mia Nina Omar Paul Rosa Sam Tom Uma Zoe".split())

# field of a profile: (sentence with {name} and {value}, values)
PROFILE = {
    "age": ("{name} is {value} years old", tuple(str(n) for n in range(5, 15))),
    "pet": ("{name} has a pet {value}", ("dog", "cat", "bird", "fish", "rabbit", "mouse", "horse", "frog")),
    "food": ("{name} likes to eat {value}", ("rice", "soup", "bread", "cake", "cheese", "pasta", "beans", "eggs")),
    "home": ("{name} lives in {value}", ("Paris", "Rome", "Tokyo", "Cairo", "Lima", "Oslo", "Madrid", "Dublin")),
    "sport": ("{name} plays {value} after school", ("chess", "tennis", "football", "golf", "hockey", "darts")),
    "colour": ("The best colour for {name} is {value}", ("red", "blue", "green", "white", "black", "pink", "yellow")),
    "friend": ("The best friend of {name} is {value}", NAMES),
}

STEPS = {
    "make tea": ("Boil the water", "Put the tea in the pot", "Pour the water on the tea", "Wait for three minutes",
        "Drink the tea"),
    "boil an egg": ("Fill a pot with water", "Heat the water", "Put the egg in the pot", "Wait for six minutes",
        "Peel the egg"),
    "plant a tree": ("Choose a sunny place", "Dig a deep hole", "Put the tree in the hole", "Fill the hole with soil",
        "Water the tree"),
    "wash a car": ("Close all the windows", "Rinse the car with water", "Scrub the car with soap", "Rinse off the soap",
        "Dry the car"),
    "send a letter": ("Write the letter", "Fold the paper", "Put it in an envelope", "Add a stamp",
        "Drop it in the box"),
    "bake bread": ("Mix flour and water", "Add salt and yeast", "Let the dough rise", "Heat the oven",
        "Bake the dough for an hour"),
    "paint a wall": ("Cover the floor", "Clean the wall", "Open the paint", "Paint the wall with a brush",
        "Let the paint dry"),
    "wash your hands": ("Turn on the tap", "Wet your hands", "Rub them with soap", "Rinse off the soap",
        "Dry them on a towel"),
    "borrow a book": ("Go to the library", "Find the book", "Show your card", "Take the book home",
        "Return it in two weeks"),
    "fly a kite": ("Wait for a windy day", "Go to an open field", "Hold the string", "Run against the wind",
        "Let the kite rise"),
    "make a salad": ("Wash the leaves", "Cut the tomato", "Put all of it in a bowl", "Add oil and salt",
        "Mix the salad"),
    "catch a train": ("Buy a ticket", "Find the platform", "Wait for the train", "Get on the train", "Take a seat"),
}  # fmt: skip

# sentences about nothing that was asked
ASIDES = (
    "My bicycle needs a new chain.", "The neighbours have a loud radio.", "I forgot to buy paper again.",
    "Yesterday the lift was broken.", "Some people collect old coins.", "The bus was late twice this week.",
    "It is cheaper to buy in bulk.", "My left shoe is too tight.", "The shop around the corner has closed.",
    "Nobody reads the manual anyway.", "There was a long queue at the bank.", "The printer is out of ink.",
    "I once knew a man with three clocks.", "Parking has become very expensive.", "The soup there is too salty.",
    "We should talk about the holidays.",
)  # fmt: skip

FILLERS = (
    "Sure!", "Of course!", "Great question!", "I am happy to help!", "Thank you for asking.", "Let me think about it.",
    "I hope this helps!", "Let me know if you need more.", "Feel free to ask again.", "Have a nice day!",
)  # fmt: skip
OPENINGS, CLOSINGS = FILLERS[:6], FILLERS[6:]
HEDGES = ("I think ", "Maybe ", "Perhaps ", "I am not sure, but ", "It could be that ")
BOASTS = ("Certainly, ", "Without a doubt, ", "I am sure that ", "Everyone knows that ")
PROPER = frozenset((*NAMES, *CAPITALS, *CAPITALS.values(), *NEXT))  # words that keep their capital within a sentence
