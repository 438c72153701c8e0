"""Letters and diary pages: small news of the village, one piece after another."""

from chatlib.data.world.grammar import Pool
from chatlib.data.world.tables import words

NUMBERS = words("""
seven eight nine eleven twelve thirteen fourteen sixteen seventeen nineteen twenty thirty forty
fifty sixty ninety
""")
POOLS = {"number": Pool({"number": number} for number in NUMBERS)}

RULES = {
    "letter": [
        (2, "Dear {c.friend},\n{greeting} {three_news}\n{regards}\n{c.name}"),
        (2, "Dear {c.friend},\n{four_news}\n{regards}\n{c.name}"),
        "[Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday],\n{three_news} {ordinary}",
    ],
    "three_news": [
        "{animal_news} {people_news} {my_news}",
        "{weather_news} {thing_news} {animal_news}",
        "{people_news} {weather_news} {thing_news}",
        "{my_news} {animal_news} {weather_news}",
        "{thing_news} {my_news} {people_news}",
    ],
    "four_news": [
        "{weather_news} {animal_news} {people_news} {my_news}",
        "{people_news} {thing_news} {my_news} {animal_news}",
        "{my_news} {people_news} {weather_news} {thing_news}",
        "{thing_news} {animal_news} {my_news} {weather_news}",
    ],
    "ordinary": [
        "[An ordinary day|A good day|Tomorrow will be better|More tomorrow|I am going to bed now].",
        "[Nobody believes me|I will never forget it|That is all|My candle is almost out].",
    ],
    "greeting": [
        "[Thank you for your letter.|How are you?|It is very quiet here without you.]",
        "[There is so much to tell.|I am writing this under the blanket.|You asked for news.]",
    ],
    "regards": [
        "[When will you come|Will you visit us soon|Is it true that you have a new bicycle]?",
        "[Write soon|Bring your skates|Please answer quickly|Do not forget me|Come in the spring].",
    ],
    "when": ["[Yesterday|On Sunday|Last night|This morning|Two days ago|Before breakfast]"],
    "animal_news": [
        "<a:animal><p:place>{when} {a.a} [sang|danced|got lost|fell asleep|sneezed] {p.at}.",
        "<a:animal>Our {a.animal} is [in love|angry with me|ill|growing|lazier than ever|quite "
        "famous now].",
        "<a:animal><o:object>{when} the {a.adjective} {a.animal} [ate|hid|stole|sat on] the "
        "{o.thing}.",
        "<n:number>We counted {n.number} [storks|swallows|geese|bats] [over|behind] the "
        "[mill|church|hill].",
    ],
    "people_news": [
        "<e:elder>{e.Elder} [has learned|wants|refuses|has promised] to [ride a bicycle|play the "
        "trumpet|swim|bake|whistle|dance|grow melons|paint the roof].",
        "<x:villager>{when} we met {x.name}, the {x.job} of {x.town}, and the {x.pet} came along.",
        "<x:villager>{x.name}, the {x.job} of {x.town}, [sends you greetings|has a cold|asked "
        "about you].",
        "<v:town>We took the [train|cart|ferry] to {v.town}, but it [broke down|was late|went "
        "back].",
        "<e:elder>{e.Elder} turned [fifty|sixty|seventy|eighty|ninety] and [danced|told nobody|"
        "slept all day].",
    ],
    "weather_news": [
        "{when} it [rained|snowed|hailed] until the [cellar|lane|henhouse|old boat] was full.",
        "It is so [hot|cold|windy|foggy] that [nobody goes out|the hens stay in|I can hardly "
        "write].",
        "<p:place>{when} there was [a rainbow|a thick fog|a strange light|lightning] {p.at}.",
        "<n:number>It has not rained for {n.number} days, and the [beans|frogs|farmers] are sad.",
    ],
    "thing_news": [
        "<o:object><p:place>I found {o.a} {p.at}, [but nobody wants it|and it is for you|and it "
        "squeaks].",
        "<i:invention>We are building {i.invention}, and it is almost [ready|straight|done].",
        "<f:food>For supper we had {f.food}, [and I ate too much|again|because it was a holiday].",
        "<o:object>I have [lost|sold|painted|mended] my {o.adjective} {o.thing}.",
    ],
    "my_news": [
        "My tooth is [loose|out], and I can [whistle|spit|see] through the gap.",
        "<x:country>At school we learned that the capital of {x.country} is {x.city}.",
        "<x:element>At school we learned about {x.element}: {x.use}.",
        "I am reading a [long|short|sad|funny] book about [whales|bridges|pirates|bees|a "
        "king|the moon].",
        "I [can count|counted] to [a thousand|a hundred] without [stopping|breathing|a mistake].",
        "Everything is [well|as it was|upside down], and I [miss you|have grown|need new shoes].",
    ],
}
