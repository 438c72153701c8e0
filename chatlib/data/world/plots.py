"""The plots of the stories, one rule alternative each.

The variable c, bound before the plot begins, holds the two children (c.friend with c.fhe, c.fhis
and c.fhim is the other). By convention p is a place, o a thing, a an animal, f food, e an elder.
"""

LOST_AND_FOUND = [
    "<o:object><p:place>{one_day}, {c.name} lost {c.his} {o.adjective} {o.thing} {p.at}. "
    "{C_looks} {meets_friend} {asks_help} {agrees} Together they looked [again|once more|until "
    "dusk], and at last {c.friend} found the {o.thing} [in the grass|under a stone|behind a "
    "barrel]. {thanks} {the_end}",
    '<o:object><a:animal>{c.name} could not find {c.his} {o.thing} anywhere. "The {a.animal} has '
    'taken it," said {c.friend}. They followed the tracks of the {a.animal} [through the '
    "snow|through the mud|across the field] and found it asleep [beside|on top of] the "
    '{o.thing}. "Let it sleep," {said} {c.name}. "[It was cold|It only wanted a friend|I can '
    'wait]." {the_end}',
    '<o:object><p:place>{c.name} found {o.a} {p.at}. "[Who has lost it|Whose is it]?" {c.he} '
    "asked [at every door|everybody in the street]. In the end {c.he} knocked at the house of "
    '{c.friend}. "That is mine," {c.friend} {said}, and {c.fhis} eyes shone. Because {c.name} '
    "had been honest, {c.friend} let {c.him} [keep it for a week|play with it every Sunday]. "
    "{the_end}",
    "<e:elder>{E_cup} {c.name} [threw a ball|danced|ran through the room] and broke it. {c.He} "
    '[hid the pieces|wanted to run away], but {c.friend} said: "Tell the truth." So {c.name} '
    "went to {e.elder} and told {e.him} everything. {e.Elder} was [quiet for a while|sad, but "
    'not angry]. "A cup is only a cup," {e.he} said. "[Now help me with the glue|An honest child '
    'is worth more]." {the_end}',
]

WEATHER = [
    "<p:place>{one_day}, {c.name} and {c.friend} were playing {p.at}. {weather_turns} They [ran "
    "to |hid in |crept into ][an empty barn|a hollow tree|a shepherd's hut] and waited. To pass "
    "the time, {c.friend} [told a story about a giant|sang all the songs {c.fhe} knew|counted to "
    'a thousand]. {sky_clears} "[Already?|What a pity,]" said {c.name}. {the_end}',
    "<a:animal><p:place>{weather_turns} {c.name} heard a cry {p.at}. It was {a.a}, [wet and "
    "shivering|caught in a fence]. {c.He} wrapped the {a.animal} in {c.his} coat and carried it "
    "home. {c.friend} brought [warm milk|straw|a blanket]. [Three days|A week] later the "
    "{a.animal} was well, and they let it go. It [looked back once|came back every spring|did "
    "not want to leave].",
    "<e:elder>The garden of {e.elder} was dry, because it had not rained for [weeks|a month]. "
    "{c.name} and {c.friend} carried water from the [well|river], [ten|twenty|fifty] buckets a "
    'day. "You will get tired," said {e.elder}. They did get tired, but the '
    "[beans|roses|pumpkins] stayed green. Then, on the [fifth|seventh|ninth] day, it rained, and "
    "{c.name} and {c.friend} danced in the [mud|rain]. {the_end}",
    "A thick fog lay over the harbor, and the [fishing boats|boats] could not find the way home. "
    "{c.name} had an idea. {c.He} ran to the [chapel|tower] and rang the bell, [all night "
    "long|hour after hour]. When {c.his} arms hurt, {c.friend} took over. One boat after another "
    "followed the sound and came in. In the morning [the fishermen carried the children "
    "home|there was fish for everybody].",
    "<o:light-object>{one_day}, the wind [stole|blew away] the {o.thing} of {c.name} and hung it "
    "in a tall [oak|pine|chestnut] tree. {c.name} jumped, but {c.he} was too short. {asks_help} "
    "{agrees} {c.friend} [climbed on {c.his} shoulders|fetched a ladder|shook the branch], and "
    "down came the {o.thing}. {thanks} {the_end}",
    "<a:animal>It snowed all night. In the morning {c.name} and {c.friend} built [{a.plain}|a "
    "giant {a.animal}] out of snow, [with a carrot for a nose|with buttons for eyes|as high as "
    'the door]. People came from three streets away to see it. Then {sun_melts} "[Next '
    'winter|When it snows again]," said {c.friend}, "we will build [two|a bigger one]." {the_end}',
    '<p:place>There was ice on the pond for the first time. "[Does it hold|Is it thick enough]?" '
    "asked {c.friend}. {c.name} threw a stone, and the ice [sang like a harp|groaned|said "
    "nothing]. They waited [three|four|five] more days. On the [fourth|fifth|sixth] day {c.name} "
    "put one foot on it, and then the other. {c.friend} was already in the middle, [turning "
    "circles|flat on {c.fhis} back]. {the_end}",
    '<e:elder>"When the swallows fly low, it will rain," said {e.elder}. {c.name} looked up. The '
    "swallows flew [low|very low], and {c.name} took in the [washing|hay] at once. {c.friend} "
    "laughed at {c.him} until the first [drops fell|thunder rolled]. Now {c.friend} [stood in "
    "wet socks|had to dry everything again], and {c.name} was too polite to say anything. {c.He} "
    "only pointed at the [swallows|sky].",
]

MAKING = [
    "<f:baked><e:elder>{one_day}, {c.name} wanted to make {f.food} for {e.elder}. {c.He} forgot "
    "[the salt|the time|to light the oven], and it [tasted terrible|came out black|was as hard "
    'as a brick]. {c.name} wanted to give up. "[Nobody gets it right the first time|Try again]," '
    "said {c.friend}. The second time it [smelled wonderful|was perfect]. {e.Elder} ate [every "
    "crumb|two helpings] and asked for more.",
    "<e:elder>{e.Elder} gave {c.name} a seed. {c.name} [planted|put] it in a pot and looked at "
    'it every day, but nothing happened. "[It is a stone|It is asleep]," said {c.friend}. '
    "{c.name} watered it all the same. After [two|three|five] weeks a green leaf came up. In "
    "summer it was [a sunflower taller than {c.friend}|a bean plant that reached the roof|a "
    "pumpkin as big as a wheel]. {the_end}",
    "<p:place>{c.name} wanted to learn to [swim|whistle|juggle|ride a horse|skate]. On the first "
    "day {c.he} failed [seven|ten|twenty] times. On the second day {c.he} failed too, and "
    '{c.friend} laughed. "Laugh if you like," {said} {c.name}. {c.He} practiced {p.at} every '
    "morning, and after [a month|three weeks] {c.he} could do it. Now {c.friend} asks {c.him}: "
    '"Will you teach me?"',
    "<i:invention>{c.name} built {i.invention} out of [paper and string|old planks|things that "
    'nobody needed]. "It will never work," said {c.friend}. At first {c.friend} was right, '
    "because [a screw was missing|the glue was still wet|one side was too heavy]. {c.name} "
    "mended it that very evening. When it worked, {c.friend} was the first to [clap|cheer|ask "
    "for one].",
    "<e:elder>The [village|station|town hall] clock had stopped, and everybody was late: the "
    "[baker|teacher], the [doctor|postman], even the [rooster|mayor]. {c.name} climbed up with "
    "{c.friend} to see what was wrong. A [spider|mouse|swallow] had made a home between the "
    'wheels. They carried it out [with care|in a hat], and the clock began to tick. "[Well '
    'done|At last]," said {e.elder}. "Now I am late for lunch."',
    "{c.name} and {c.friend} painted {c.his} [boat|door|cart|fence]. {c.name} wanted it "
    "[blue|red], and {c.friend} wanted it [yellow|white]. They argued [for an hour|until lunch], "
    "and the paint began to dry. So each of them painted one half. Everybody who came by stopped "
    'to look. "[What a splendid idea|How did you think of that]!" they said, and neither of them '
    "[told the truth|said a word about the argument].",
    "<e:elder>{e.Elder} was [too old to climb the stairs|ill in bed] and missed the "
    '[sea|garden|market]. "Then we will bring it here," said {c.name}. {c.He} filled a [box|tub] '
    "with [sand and shells|earth and daisies|oranges and loud voices], and {c.friend} built "
    "[a cart|a sled|a lift of rope] to carry it up. {e.Elder} closed {e.his} eyes and "
    'breathed in. "[I am there|That is it exactly]," {e.he} said.',
    'The school play was about a [dragon|whale|king]. {c.name} had one line: "[The sea is '
    'rising|Here comes the king|Beware]!" {c.He} practiced it [in the bath|for the hens|on the '
    "way to school]. On the great evening {c.he} opened {c.his} mouth, and [no word came "
    "out|every word was gone]. Then {c.friend}, who was the [tree|moon|back half of the horse], "
    "whispered it. Nobody had ever heard a [tree|moon|horse] whisper before, and the people "
    "clapped [twice as long|until the lamps shook].",
    "<f:food>{c.name} opened a shop [on the garden wall|under the chestnut tree]. {c.He} sold "
    "[stones|riddles|weather reports] for [a button|a penny] each. Nobody came except "
    '{c.friend}, who had no [buttons|money] at all. "[I can|Let me] pay with {f.food}," '
    "said {c.friend}. That was the best business {c.name} ever did. {laughed}",
]

FRIENDS = [
    "<f:food>{c.name} had {f.food}, and {c.friend} had nothing. {c.name} was hungry, but {c.he} "
    'saw the face of {c.friend} and [cut it in two|moved over on the bench]. "Half for you," '
    "{c.he} {said}. The next day {c.name} [forgot|lost] {c.his} lunch. {c.friend} came with "
    '{c.fhis} bag and [smiled|sat down beside {c.him}]. "Half for you," {c.fhe} said. {the_end}',
    "<o:light-object>{c.name} and {c.friend} quarreled about {o.a}. {c.name} said that it "
    "belonged to {c.him}, and {c.friend} pulled at the other end, until it [broke|tore in two]. "
    "Nobody [spoke|said a word] for [two days|a week]. Then {c.friend} came with [glue|needle "
    'and thread], and {c.name} came with [a cake|an apple]. "I am sorry," they said at the same '
    "time. {laughed}",
    "<f:food>A new [girl|boy|family] moved into the house [beside the mill|at the corner|on the "
    'hill]. "They never say hello," said {c.friend}. "Perhaps they are shy," {said} {c.name}, '
    'and {c.he} took {f.food} and knocked. The door opened [slowly|just a little]. "[Is that for '
    'us|Nobody has come to see us before]," said a small voice. After that the door was always '
    "open.",
    "<p:place>{c.name} was afraid of the dark. {one_day}, {c.he} had to fetch [a bucket|the "
    "lamp|a bag] {p.at}. Something [rustled|scratched|groaned]. {c.name} wanted to run, but "
    "{c.he} held {c.his} breath and looked. It was [only an owl|a very small "
    'hedgehog|{c.friend}, who was just as afraid]. "{boo}" said {c.name}, and [all at '
    "once|suddenly] the dark was [only the dark|not so dark].",
    "<e:elder>It was the birthday of {c.name}, and nobody said a word about it. {c.friend} had "
    "[no time|a cold]. {e.Elder} [was asleep|shut the door]. {c.name} walked home with {c.his} "
    "head down. But when {c.he} opened the [door|gate], [thirty candles|a hundred lanterns] were "
    'burning, and there stood {e.elder} and {c.friend} with [a cake|a drum|a trumpet]. "[We are '
    'bad at lying|Did you really think so]!" said {c.friend}.',
    "<e:elder>A letter for {e.elder} came to the house of {c.name} by mistake. {c.name} took it "
    "[across the bridge|up the hill|through the rain] to {e.him}. {e.Elder} could not read it "
    "without {e.his} glasses, so {c.name} read it aloud. It came from {a_sister} {e.he} had not "
    "seen for [ten|thirty] years. {e.Elder} [wept a little|was silent], and then {e.he} made tea "
    "for two.",
    "{c.friend} was too shy to sing at the [fair|feast|wedding], although {c.fhe} sang [like a "
    'bird|better than anybody]. "Sing for me alone," said {c.name}, and {c.he} [closed {c.his} '
    "eyes|turned {c.his} back]. So {c.friend} sang. One by one, the people [put down their "
    "cups|stopped talking] to listen. When {c.friend} looked up, the whole "
    "[square|street|garden] was full, and [it was too late to be shy|nobody wanted to go home].",
    '<p:place>{c.name} called across the valley, and the echo called back. "Who is there?" '
    'shouted {c.name}. "[There, there|Is there]," answered the echo. {c.name} came back every '
    "[evening|day], because it is good to have somebody who always answers. Then {c.friend} "
    "moved away to the other side of the valley. Now, when {c.name} calls, [two voices "
    'answer|the echo says "Good night, {c.name}"].',
    "{c.name} lost a tooth and {c.friend} lost [one too|two]. They put the teeth [under a "
    "stone|in a matchbox|on the windowsill] and wished. {c.name} wished for [a sled|snow|a "
    "brother], and {c.friend} would not tell. In the morning there was [a coin|nothing but a "
    'feather|a very small letter]. "Did you get your wish?" asked {c.name}. "[You are still '
    'here, are you not|You came back, did you not]?" said {c.friend}.',
]

ADVENTURE = [
    "<a:animal>{A_animal} stood on the road and would not move. {c.name} pulled, and {c.friend} "
    'pushed, but the {a.animal} [yawned|sat down|shut its eyes]. "Perhaps it is '
    '[hungry|tired|lonely]," said {c.name}. {c.He} [gave it an apple|sang to it|sat down next to '
    "it]. After a while, the {a.animal} stood up and went ahead of them, as if it had been [its "
    "own idea|in a hurry all day]. {the_end}",
    "<p:place>{c.name} found an old map in a [book|drawer|bottle], with a cross {p.at}. {c.He} "
    "and {c.friend} dug [all day|until their hands hurt]. They found no gold. They found [a "
    "spring of clear water|a box of old letters|a bell without a tongue|the bones of a very "
    'large fish]. "Is that a treasure?" asked {c.friend}. "[It is now|The best one]," {said} '
    "{c.name}. {the_end}",
    "<o:object><f:food>{one_day}, {c.name} went to the market to trade {c.his} {o.adjective} "
    "{o.thing} for {f.food}. The farmer wanted [a hen|a bag of salt|a sharp knife] instead. "
    "{c.friend} had one, but {c.fhe} wanted [a song|a pair of shoes|a puppy]. So {c.name} ran "
    "from stall to stall [all day|until noon], and in the evening {c.he} had {f.food} and still "
    "had the {o.thing}. Nobody knows how {c.he} did it.",
    "<p:place>The bridge was gone, because the flood had [taken it|broken it] in the night. "
    "{c.friend} was on the other side, [waving|calling]. {c.name} tied [six barrels|four doors|a "
    "dozen logs] together and called it a ship. It turned round [twice|three times] and lost [a "
    'barrel|its flag], but it [crossed the river|came across]. "You are wet," said {c.friend}. '
    '"[I am a captain|Captains are always wet]," {said} {c.name}.',
    "<e:elder>At night {c.name} and {c.friend} climbed [the hill|onto the roof] to look at the "
    'stars. "That one is called [the Spoon|the Goose|the Old Shoe]," said {c.name}. "You made '
    'that up," said {c.friend}. "Somebody has to." They [named|counted] [forty|sixty|ninety] '
    "stars before {e.elder} called them in. The next night, [all of them were still "
    "there|{c.friend} still knew every name]. {the_end}",
    "<a:animal><o:object>{c.name} had {a.a} that loved nothing more than {c.his} {o.thing}. "
    "{one_day}, the {o.thing} fell into the [pond|river|well]. Before {c.name} could [say a "
    "word|blink], the {a.animal} jumped after it. {c.friend} threw a rope, and together they "
    "pulled until the {a.animal} was on dry land, with the {o.thing} [in its mouth|on its head]. "
    "It looked very [proud|pleased] and very wet.",
    "<e:elder><p:place><m:monster>{e.Elder} told {c.name} that a {m.monster} lived {p.at}. "
    "{c.name} and {c.friend} took [a lamp|two apples|a long rope] and went to see. There was no "
    "{m.monster}. There was only the [wind in a broken bottle|moon on the water|old tree that "
    'creaked]. "Shall we tell {e.him}?" asked {c.friend}. "No," {said} {c.name}. "[Everybody '
    'needs a story|Then {e.he} would have nothing to be afraid of]."',
    "<e:elder><a:animal>Every night something [stole the eggs|opened the gate|drank the milk] of "
    "{e.elder}. {c.name} and {c.friend} hid [behind the hay|in the apple tree] to watch. At "
    "midnight {c.friend} fell asleep. At one, {c.name} heard [soft steps|a little cough]. It was "
    "[the {a.adjective} {a.animal}|a thin {a.animal} with three young ones|{e.elder}, who walked "
    "in {e.his} sleep]. {c.name} never told anybody, but {c.he} left [a plate by the door|a "
    "lantern burning].",
    "<o:object>The train stopped between two stations, and nobody knew why. {c.name} looked out "
    'of the window. On the track sat a {c.child} with {o.a}. It was {c.friend}. "[The bridge is '
    'broken|A tree has fallen on the line]," {c.fhe} called, "and this was all I had to wave '
    'with." The [driver|conductor] took off his cap. In the [newspaper|village] they still call '
    "it the train that was saved by {o.a}.",
    '<p:place>{c.name} put a letter into a bottle and threw it into the sea. "[Please write '
    'back|Who are you]," it said, "I live {p.at}." [A year|Two years|Half a year] went by. Then '
    "[a sailor|the postman|a stranger] brought an answer. It had come from [the other end of the "
    'world|an island without a name], and it said only: "[Dear {c.name}, here it is raining '
    'too|So do I|Thank you, I was lonely]." {c.friend} read it [twice|three times] and fetched a '
    "bottle.",
]

PLOTS = LOST_AND_FOUND + WEATHER + MAKING + FRIENDS + ADVENTURE

PLOT_PHRASES = {
    "story": [(3, "<c:cast>{plot}"), (4, "<c:cast>{intro} {plot}"), (5, "<c:cast>{letter}")],
    "plot": PLOTS,
    "intro": [
        "{c.name} was [six|seven|eight|nine|ten] years old and {trait}.",
        "{c.name} was {trait}, and {c.friend} was {trait}.",
        "{c.name} lived {lives} with {c.his} [mother|father|grandparents|aunt|five brothers].",
        "{c.name} and {c.friend} lived {lives}.",
        "<v:town>In {v.town} everybody knew {c.name}, "
        "[the {c.child} who|because {c.he}] {known_for}.",
        "<v:town>This happened in {v.town}, [where nothing ever happens|many years ago|last week].",
        "<e:elder>This is the story that {e.elder} tells when {telling_time}.",
        "{air} {c.name} [could not sit still|had nothing to do|felt it in {c.his} toes].",
        "{air}",
    ],
    "trait": [
        "[afraid of nothing|afraid of geese|full of questions|never in a hurry|always hungry]",
        "[fond of riddles|good at waiting|bad at waiting|always late|small for a {c.child}]",
        "[a great climber|a great talker|a good listener|stubborn|as quiet as a mouse]",
    ],
    "lives": [
        "[above the bakery|beside the railway|at the edge of the forest|behind the church]",
        "in the house with the [green|red|blue|crooked] [door|roof|chimney]",
        "[on a boat|on a farm|at the end of the lane|next to the school]",
    ],
    "known_for": [
        "asked [too many questions|why the moon follows us|what clouds are made of] every day",
        "[collected feathers|talked to hens|could walk on stilts|sang in the rain|knew every dog]",
    ],
    "telling_time": ["[it rains|the fire is low|nobody can sleep|the soup takes too long]"],
    "air": [
        "The air smelled of [smoke|apples|salt|snow|fresh bread|hay].",
        "The [apple trees|lilacs|cherry trees] were in bloom, and the [bees|cats] were out.",
        "It had been a [long|wet|mild|very long] [winter|summer|autumn].",
        "The [wind|moon|frost|first swallow] had come [early|late] that year.",
    ],
    "C_looks": [
        "{c.He} looked [everywhere|under every bush|until {c.his} feet hurt], but it was gone.",
        "{c.He} turned every stone, but it was not there.",
        "{c.He} [sat down and cried|did not know what to do].",
    ],
    "E_cup": [
        "{e.Elder} had a [blue|painted|golden] cup that {e.he} loved.",
        "On the table of {e.elder} stood a cup as thin as [paper|a leaf|an eggshell].",
    ],
    "sun_melts": ["the sun came out, and there was only a puddle.", "it grew warm, and it melted."],
    "A_animal": ["{a.A}", "[A very old|A fat|A gray] {a.animal}"],
    "a_sister": ["a [sister|brother|friend|cousin]"],
    "boo": ["[Good evening|Hello there|So it is you],"],
}
