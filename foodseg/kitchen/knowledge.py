"""What the kitchen knows about its foods, as data: clues and the foods that fit them.

A clue is a verb phrase ("grows in flooded paddies") that asks for foods without naming them. The
facts are common knowledge of nutrition (USDA FoodData Central), botany, cooking, culture and
allergy (the nine major allergens of US law); the sentences are ours. A clue has two sets: the
foods that fit, and the foods about which careful people disagree ("is a potato a vegetable?").
On a plate that holds one of the second kind the clue is not asked, so that the answer of a
question is always all foods on the plate that fit.
"""

from __future__ import annotations

# One clue for exactly one food a line: "text | hint | debatable foods"; a leading "!" marks a
# clue about what somebody must avoid (it does not suit "I would like something that ...").
SPECIFIC: dict[str, str] = {
    "egg": """
        comes from a hen | a hen
        has a yolk and a white | a yolk
        is the base of an omelette | an omelette
        is whipped into fluffy meringue | meringue
        holds mayonnaise together | mayonnaise
        is served sunny side up | sunny side up
        is painted for Easter | Easter
        is scrambled for breakfast | a breakfast scramble
        is folded into a quiche filling | quiche | cheese butter
    """,
    "carrot": """
        is the top source of beta-carotene | beta-carotene
        is famed for helping the eyes | eye health
        is a crunchy sweet root | a sweet root
        is grated into a spiced cake | spiced cake
        is a cartoon rabbit's snack | a cartoon rabbit
        makes the nose of a snowman | a snowman
        joins onion and celery in mirepoix | mirepoix
        grows feathery leaves above ground | a feathery leaf
        is a plant's taproot | a taproot
    """,
    "broccoli": """
        looks like a small tree | a small tree
        is eaten as flower buds | a flower bud
        belongs to the cabbage family | the cabbage family
        is rich in sulforaphane | sulforaphane
        is cut into green florets | a green floret
        was bred from wild cabbage | wild cabbage
        is a close cousin of cauliflower | cauliflower
        has a thick stalk and a bushy head | a bushy head
        smells of sulfur when overcooked | a sulfur smell | egg
    """,
    "rice": """
        is the main staple of Asia | the staple of Asia
        grows in flooded paddies | a flooded paddy
        is seasoned as the base of sushi | the base of sushi
        becomes creamy in risotto | risotto
        is brewed into sake | sake
        is the base of paella | paella
        comes as basmati or jasmine | basmati
        cooks in a special electric cooker | an electric cooker
        is thrown at weddings | a wedding
    """,
    "steak": """
        is cut from beef cattle | beef cattle | sausage
        is ordered rare or well done | ordering by doneness
        is the best source of heme iron | heme iron | sausage
        comes with pepper sauce in a bistro | pepper sauce
        comes as sirloin or ribeye | ribeye
        rests a few minutes after grilling | resting
        is sliced against the grain | slicing against the grain
        is marbled with fat | marbling
        comes as a T-bone cut | a T-bone
        is sold as filet mignon | filet mignon
    """,
    "tomato": """
        is rich in lycopene | lycopene
        is the base of ketchup | ketchup
        is the base of pizza sauce | pizza sauce
        is the T in a BLT | a BLT
        is simmered into marinara | marinara
        gives gazpacho its red color | gazpacho
        is layered with mozzarella and basil | Caprese salad | cheese butter
        is thrown in a Spanish street battle | a Spanish street battle
        is the main juice of a Bloody Mary | a Bloody Mary
    """,
    "strawberry": """
        wears tiny seeds on the skin | a seedy skin
        is served with cream at Wimbledon | Wimbledon
        is the red fruit in shortcake | shortcake
        is dipped in chocolate for Valentine's Day | Valentine's Day
        belongs to the rose family | the rose family
        spreads by runners over the soil | a runner
        makes a pink milkshake | a pink milkshake
        goes with rhubarb in pie | rhubarb pie
        is a berry only in name | a false berry
    """,
    "banana": """
        has a peel that cartoons slip on | a slippery peel
        is a storybook monkey's favorite | a storybook monkey
        is split lengthwise for a sundae | a split sundae
        is mashed into a sweet loaf | a sweet loaf
        hangs in bunches called hands | a bunch called a hand
        is a sweet cousin of plantain | plantain
        grows on a giant herb | a giant herb
        turns from green to yellow and spotted | a spotted yellow peel
        is flamed with rum in New Orleans | a New Orleans flambe
    """,
    "lemon": """
        tastes the most sour | a sour taste
        is squeezed over seafood | a sour squeeze
        makes a tart curd for pies | tart curd
        gives a meringue pie its tang | a tangy pie
        is richest in citric acid | citric acid
        stops cut fruit from turning brown | anti-browning juice | orange
        is sliced into hot tea | a slice in tea | orange
        has bright yellow zest | yellow zest
        is steeped for limoncello | limoncello
    """,
    "orange": """
        is the classic breakfast juice | breakfast juice
        is the pride of Florida groves | Florida
        peels into sweet segments | a sweet segment
        comes as navel or Valencia | navel
        is the base of classic marmalade | marmalade
        flavors roast duck in France | French duck
        flavors a crepe Suzette | crepe Suzette
        is a sweet citrus fruit | sweet citrus
        is studded with cloves at Christmas | a Christmas clove
    """,
    "blueberry": """
        stains the tongue blue | a blue stain
        is the classic muffin fruit | a muffin | banana
        grows on low bushes in Maine | Maine
        is a tiny round fruit | a tiny round fruit
        grows on a bush in acid soil | acid soil
        is a cousin of the cranberry | the cranberry
        bursts in hot pancakes | a pancake
        has a waxy blue skin | a waxy blue skin
        was dried by Native Americans for pemmican | pemmican | steak, strawberry
    """,
    "fish": """
        is rich in marine omega three | marine omega three | shrimp
        has scales and fins | a scaly skin
        is battered in a British chip shop | a British chip shop | french fries
        is checked for small bones | a small bone
        comes as salmon or cod | salmon
        is caught with a hook | a hook
        is cured as Nordic gravlax | gravlax
        is eaten raw as sashimi | sashimi | shrimp
        flakes apart when done | flaking
    """,
    "shrimp": """
        is a small crustacean | a crustacean
        turns from gray to pink in heat | the pink turn
        !is off limits with a shellfish allergy | a shellfish allergy
        is deveined before cooking | deveining
        comes with cocktail sauce | cocktail sauce
        has ten legs | a ten-legged body
        fills Chinese har gow | har gow
        is cooked with garlic as scampi | scampi
        swims backward with a tail flick | a tail flick
        stars in Thai tom yum goong | tom yum goong
    """,
    "bread": """
        is baked in a loaf | a loaf | banana
        rises with yeast | yeast
        is toasted for breakfast | toast
        holds a sandwich together | a sandwich
        is made from wheat flour | wheat flour | sausage
        !is unsafe with celiac disease | gluten | sausage, french fries
        comes as baguette or sourdough | a baguette
        is shared in Christian communion | communion
        is dried into croutons | a crouton
        has a crumb and a crust | a crust
    """,
    "corn": """
        grows on a cob | a cob
        pops into a movie snack | a movie snack
        was sacred to the Maya | the Maya
        is ground for Mexican tortillas | a tortilla
        wears a husk with silky threads | a silky husk
        has rows of yellow kernels | a yellow kernel
        is cooked into Italian polenta | polenta
        is sold as elote in Mexico | elote
        is also called maize | maize
        is made into bourbon | bourbon
    """,
    "cucumber": """
        becomes a dill pickle | a dill pickle
        covers tired eyes at a spa | a spa
        goes into Greek tzatziki | tzatziki
        cools an Indian raita | raita
        belongs to the melon family | the melon family
        is a cool crunchy gourd | a crunchy gourd
        gives the saying about staying cool | a cool saying
        is called a gherkin when small | a gherkin
        fills the Japanese kappa roll | the kappa roll | rice
    """,
    "avocado": """
        turns into guacamole | guacamole
        hides one big round pit | a big pit
        is a fruit rich in fat | a fatty fruit
        has creamy green flesh | creamy green flesh
        is mashed on trendy toast | trendy toast
        comes in a kind called Hass | Hass
        never ripens on the tree | ripening after picking | banana
        is nicknamed alligator pear | the alligator pear
        makes a smooth green dip | a green dip
        is poisonous to parrots | parrot poison
    """,
    "cheese butter": """
        melts on top of a pizza | a melted topping
        comes as cheddar or gouda | cheddar
        melts in a Swiss fondue | fondue
        is aged in a cool cellar | a cool cellar | sausage
        is a cartoon mouse's favorite | a cartoon mouse
        melts over a burger | a burger topping
        is sold in wheels or wedges | a wheel
        is grated over pasta | a pasta topping
        is set with rennet | rennet
        is paired with wine and crackers | a wine and cracker board | sausage
    """,
    "french fries": """
        comes in a fast food carton | a fast food carton
        is dipped in ketchup | a ketchup dip | sausage, shrimp
        is fried twice in Belgium | Belgium
        is the base of poutine | poutine
        is the usual burger side | a burger side
        is called chips in London | the London word
        comes in shoestring or curly cuts | a shoestring cut
        goes with mussels in Brussels | Brussels
        is a salty fast food side | a salty side
        is made from Andean tubers | a tuber
        comes from the crop of the Irish famine | the Irish famine
    """,
    "sausage": """
        is meat in a casing | a casing
        fills a hot dog bun | a hot dog
        is a German beer garden classic | a beer garden
        counts as processed meat | processed meat
        comes as bratwurst or chorizo | bratwurst
        is served with mustard and sauerkraut | sauerkraut
        is ground meat with spices | spiced ground meat
        is wrapped as a pig in a blanket | a pig in a blanket
        is tied in links | a link
        is called a banger in Britain | a banger
    """,
    "eggplant": """
        is called aubergine in Britain | aubergine
        has shiny purple skin | a purple skin
        is the base of baba ghanoush | baba ghanoush
        is the star of Greek moussaka | moussaka
        soaks up oil like a sponge | an oil sponge | bread
        contains nasunin in the skin | nasunin
        is charred for a smoky dip | a smoky dip
        was once called mad apple | the mad apple
        is stewed into ratatouille | ratatouille | tomato
    """,
    "kiwi": """
        has fuzzy brown skin | a fuzzy skin
        shares a name with a bird | a bird
        is a famous fruit of New Zealand | New Zealand
        was called Chinese gooseberry | the gooseberry name
        contains the enzyme actinidin | actinidin
        is green with tiny black seeds | a tiny black seed
        grows on a woody vine | a woody vine
        stops jelly from setting | unset jelly
        has a white core in green flesh | a white core
    """,
}

# Clues that several foods fit: "text | hint | foods that fit | debatable foods".
GROUPS: str = """
    grows on a tree | a tree | lemon, orange, avocado | banana
    belongs to the citrus family | citrus | lemon, orange
    is rich in vitamin C | vitamin C | orange, lemon, strawberry, kiwi, broccoli \
        | tomato, french fries, blueberry, banana, avocado, corn
    belongs in a fruit salad | fruit salad | strawberry, banana, orange, blueberry, kiwi \
        | lemon, avocado, cucumber
    belongs to the sweet fruits | sweet fruit | strawberry, banana, orange, blueberry, kiwi \
        | tomato, lemon, corn
    belongs to the cook's vegetables | the vegetable shelf \
        | carrot, broccoli, tomato, cucumber, eggplant | corn, french fries, avocado
    belongs to the green vegetables | the green vegetable shelf | broccoli, cucumber | avocado
    gives animal protein | animal protein | egg, steak, fish, shrimp, sausage | cheese butter
    !is off limits for vegetarians | meat or seafood | steak, fish, shrimp, sausage \
        | egg, cheese butter
    !is off limits for vegans | an animal product \
        | steak, fish, shrimp, sausage, egg, cheese butter | bread, french fries
    is safe for a strict vegan | a plant food \
        | carrot, broccoli, rice, tomato, strawberry, banana, lemon, orange, blueberry, corn, \
        cucumber, avocado, eggplant, kiwi | bread, french fries
    !is off limits with a seafood allergy | a seafood allergy | fish, shrimp
    was caught in the water | the water | fish, shrimp
    counts as seafood | seafood | fish, shrimp
    is rich in starch | starch | rice, bread, french fries | corn, banana
    comes from a cereal grain | a cereal grain | rice, bread, corn
    comes from a gluten free grain | a gluten free grain | rice, corn | bread
    comes from the nightshade family | nightshade | tomato, french fries, eggplant
    came to Europe from the Americas | the New World | tomato, corn, avocado \
        | french fries, strawberry, blueberry
    is native to Mexico | Mexico | corn, avocado | tomato
    contains no fiber | zero fiber | egg, steak, fish, shrimp, cheese butter | sausage
    contains almost no carbohydrate | a low carb plan | egg, steak, fish, shrimp, cheese butter \
        | sausage, broccoli, cucumber, avocado
    contains cholesterol | cholesterol | egg, steak, fish, shrimp, sausage, cheese butter \
        | bread, french fries
    gives vitamin B12 | vitamin B12 | egg, steak, fish, shrimp, sausage, cheese butter
    gives natural vitamin D | vitamin D | egg, fish | cheese butter, shrimp, steak, sausage
    is high in saturated fat | saturated fat | cheese butter, sausage \
        | steak, egg, french fries, avocado
    raises blood sugar quickly | fast sugar | rice, bread, french fries \
        | banana, corn, carrot, orange, kiwi, blueberry, strawberry
    makes a sweet berry jam | berry jam | strawberry, blueberry
    browns quickly when cut open | browning flesh | banana, avocado, eggplant
    is peeled by hand before eating | hand peeling | banana, orange \
        | kiwi, avocado, carrot, cucumber, corn, lemon, shrimp, egg
    is usually eaten raw | a raw bite \
        | cucumber, strawberry, banana, orange, kiwi, blueberry, avocado \
        | tomato, carrot, lemon, bread, cheese butter, broccoli, egg, fish
    is usually eaten hot | a hot meal | rice, steak, french fries, sausage \
        | egg, fish, shrimp, corn, broccoli, eggplant, tomato, carrot, bread
    hides seeds inside the flesh | a seedy inside \
        | orange, lemon, tomato, cucumber, eggplant, kiwi \
        | banana, blueberry, avocado, strawberry, corn
    is sold at a fruit stand | a fruit stand \
        | strawberry, banana, lemon, orange, blueberry, kiwi | avocado, tomato, corn, cucumber
    needs care with germs when raw | food hygiene | egg, steak, fish, shrimp, sausage \
        | rice, cheese butter
    comes from an animal | an animal | egg, steak, fish, shrimp, sausage, cheese butter
    comes from a mammal | a mammal | steak, cheese butter | sausage
    has green flesh inside | green flesh | avocado, kiwi, cucumber | broccoli
    gets color from carotenoids | carotenoid pigment | carrot, tomato, orange, corn \
        | egg, shrimp, fish, cheese butter, banana, kiwi, broccoli, avocado, lemon, \
        french fries, cucumber
    comes from a farm animal | a farm animal | egg, steak, sausage, cheese butter | fish, shrimp
    counts as meat from land animals | land meat | steak, sausage
    comes from the butcher | a butcher | steak, sausage | egg, fish, cheese butter
    gets a red color when ripe | ripe red | tomato, strawberry
    gets a yellow color when ripe | ripe yellow | banana, lemon, corn | kiwi, orange
    helps muscles grow after sport | muscle protein | egg, steak, fish, shrimp \
        | sausage, cheese butter
    gives quick energy before a run | quick energy | banana, rice, bread \
        | french fries, corn, orange, kiwi, strawberry, blueberry
    is rich in vitamin K | vitamin K | broccoli, kiwi | avocado, blueberry, cucumber, carrot
    is rich in potassium | potassium | banana, avocado \
        | tomato, fish, steak, kiwi, orange, french fries, carrot, broccoli, eggplant, corn, \
        shrimp, strawberry, sausage, lemon, cucumber
    contains a major allergen | an allergen | egg, fish, shrimp, bread, cheese butter \
        | sausage, kiwi, banana, strawberry, avocado, french fries
    belongs in a full English breakfast | an English breakfast | egg, sausage, tomato, bread \
        | steak, french fries, cheese butter, fish
    belongs in Japanese sushi | a sushi bar | rice, fish, shrimp, cucumber, avocado \
        | egg, carrot, eggplant, cheese butter, lemon, steak, corn
    goes raw into Greek salad | Greek salad | tomato, cucumber | cheese butter, lemon
    is made with living microbes | fermentation | bread, cheese butter | sausage
    is made by people, not grown | human craft | bread, cheese butter, sausage \
        | french fries, steak
    contains anthocyanin | anthocyanin | eggplant, strawberry, blueberry | orange, corn, kiwi
    counts among botanical berries | a botanical berry \
        | tomato, banana, blueberry, kiwi, avocado, eggplant, cucumber, lemon, orange | strawberry
    counts as fruit only in botany | hidden fruit | tomato, cucumber, eggplant | avocado, corn
"""
