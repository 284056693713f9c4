#!/usr/bin/env python3
"""Writes tests/tokenizer/data/corpus.txt: texts that a tokenizer can get wrong.

usage: make_tokenizer_corpus.py

One text a line. A backslash, a control or invisible character, and a byte that is no UTF-8 are escaped: \\\\, \\n, \\r,
\\t, \\xHH for each byte. The same seed gives the same file.
"""
import pathlib
import random
import unicodedata

SENTENCES = [  # article 1 of the Universal Declaration of Human Rights, and plain lines, in 30 scripts
    "All human beings are born free and equal in dignity and rights.",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren; heißt es.",
    "Todos los seres humanos nacen libres e iguales en dignidad y derechos. ¿Y tú?",
    "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.",
    "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. İstanbul'da ılık.",
    "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.",
    "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv.",
    "Hver maður er borinn frjáls og jafn öðrum að virðingu og réttindum.",
    "Все люди рождаются свободными и равными в своём достоинстве и правах.",
    "Всі люди народжуються вільними і рівними у своїй гідності та правах. Ґанок її.",
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "Ἐν ἀρχῇ ἦν ὁ λόγος, καὶ ὁ λόγος ἦν πρὸς τὸν θεόν.",
    "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق. السَّلَامُ عَلَيْكُمْ",
    "تمام افراد بشر آزاد به دنیا می‌آیند و از لحاظ حیثیت و حقوق با هم برابرند.",
    "تمام انسان آزاد اور حقوق و عزت کے اعتبار سے برابر پیدا ہوئے ہیں۔",
    "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. בְּרֵאשִׁית בָּרָא",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে।",
    "மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.",
    "ప్రతిపత్తిస్వత్వముల విషయమున మానవులెల్లరును జన్మతః స్వతంత్రులును సమానులును నగుదురు.",
    "മനുഷ്യരെല്ലാവരും തുല്യാവകാശങ്ങളോടും അന്തസ്സോടും സ്വാതന്ത്ര്യത്തോടുംകൂടി ജനിച്ചവരാണ്.",
    "ಎಲ್ಲಾ ಮಾನವರೂ ಸ್ವತಂತ್ರರಾಗಿಯೇ ಜನಿಸಿದ್ದಾರೆ.",
    "ਸਾਰਾ ਮਨੁੱਖੀ ਪਰਿਵਾਰ ਆਪਣੀ ਮਹਿਮਾ ਅਤੇ ਹੱਕਾਂ ਦੇ ਪੱਖੋਂ ਬਰਾਬਰ ਹੈ।",
    "සියලු මනුෂ්‍යයෝ නිදහස්ව උපත ලබා ඇත.",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "ມະນຸດທຸກຄົນເກີດມາມີສິດເສລີພາບ ແລະສະເໝີພາບ.",
    "မြန်မာစာ လူတိုင်းသည် တူညီ လွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့် မွေးဖွားလာသူများ ဖြစ်သည်။",
    "មនុស្សទាំងអស់កើតមកមានសេរីភាពនិងភាពស្មើៗគ្នា។",
    "འགྲོ་བ་མིའི་རིགས་རྒྱུད་ཡོངས་ལ་སྐྱེས་ཙམ་ཉིད་ནས་ཆེ་མཐོངས།",
    "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心。",
    "人人生而自由,在尊嚴和權利上一律平等。㐂𠮷野家",
    "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "コンピューターのデータをﾊﾝｶｸで入力する。ラーメンが３杯、１２００円です。",
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "ყველა ადამიანი იბადება თავისუფალი და თანასწორი. ᲛᲗᲐᲕᲠᲣᲚᲘ",
    "Բոլոր մարդիկ ծնվում են ազատ ու հավասար։",
    "የሰው፡ልጅ፡ሁሉ፡ሲወለድ፡ነጻና፡በክብርና፡በመብትም፡እኩልነት፡ያለው፡ነው።",
    "ᠬᠦᠮᠦᠨ ᠪᠦᠷ ᠲᠥᠷᠥᠵᠦ ᠮᠡᠨᠳᠡᠯᠡᠬᠦ ᠡᠷᠬᠡ ᠴᠢᠯᠥᠭᠡ᠎ᠠ",
    "ᓄᓇᕐᔪᐊᕐᒥ ᐃᓄᓕᒫᑦ ᐊᓂᖅᑎᕆᔪᓕᒫᑦ. Ꮳꮃꭹ ꭶꮼꮒꭿꮝꮧ",
    "𐌰𐌻𐌻𐌰𐌹 𐌼𐌰𐌽𐌽𐌰 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝓂𝒶𝓉𝒽 𝟘𝟙𝟚 ∑∫√≠≤ ∀x∈ℝ: ⌈x⌉ = −⌊−x⌋",
    "ߡߊ߲߬ߕߏ߫ ߓߍ߯ ⵉⵎⴷⴰⵏⵏ ⴰⴽⴽⵯ 𞤋𞤲𞤲𞤢𞤥𞤢 ꦱꦧꦼꦤ ꯃꯤꯑꯣꯏ ᱥᱟᱱᱟᱢ",
]
CODE = [
    "def f(x: int) -> list[int]:\n    return [i ** 2 for i in range(x) if i % 3 != 0]\n",
    "for (int i = 0; i < n; ++i) {\n\tsum += a[i] * b[i];\t// dot\n}\r\n",
    "#include <vector>\ntemplate <typename T> constexpr auto&& fwd(T&& t) noexcept { return static_cast<T&&>(t); }",
    "SELECT COUNT(*) FROM t WHERE name LIKE '%O''Brien%' AND id >= 0x1F;",
    "<div class=\"a b\" data-x='1'>&nbsp;&amp;</div><!-- c --><br/>",
    "{\"a\": [1, 2.5e-10, null], \"b\": {\"c\": \"\\u00e9\\n\"}}",
    "https://user:pw@example.com:8080/p/a_t-h/~x?q=1&r=%20#frag mailto:a.b+c@d.org",
    "$ ls -la | grep -E '^d.*[0-9]{3}' >> /dev/null 2>&1 && echo \"${HOME}/$USER\"",
    "\\begin{align*} \\frac{\\partial L}{\\partial w_{ij}} &= \\sum_k \\delta_k x_j \\\\ \\end{align*}",
    "fn main() { println!(\"{:>8.3}\", 3.14159_f64); let x = &mut v[..]; }",
    "if __name__ == '__main__':\n\n\n        main()\n\n    \n# end",
    "x=1;y=x+++--z;q?.w??r;a<<=2;b>>>=3;c**=4;d|=e&&f||!g^~h",
    "I'm, you're, he's, it'd, we've, they'll, I'M, YOU'RE, HE'S, IT'D, WE'VE, THEY'LL, don't, 'tis, O'Neil's, 's'",
    "it'ſ I’m you’re ‘quoted’ “text” «guillemets» „low“ — em – en … ellipsis",
]
EMOJI = ["😀", "👍🏽", "👩🏿‍🚀", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🏴‍☠️", "🇩🇪🇯🇵🇧🇷", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "❤️", "☃️", "1️⃣", "#️⃣", "🫠🫡🫶", "🫩🪾", "©®™", "🅰️Ⓜ️", "✊🏻✊🏿", "🧑‍🤝‍🧑"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>",
           "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "<|begin_of_text|>", "<|eot_id|>", "]~b]", "[MASK]",
           "<word>", "café!", "<|im_start|", "<|endoftext|>>", "<|END|>"]
SPACES = [" ", "  ", "   ", "    ", " " * 7, " " * 31, "\t", "\t\t", " \t ", "\n", "\n\n", "\n\n\n\n", "\r\n", "\r\n\r\n", "\r",
          " \n", "\n ", "  \n\t\n  ", "\u00a0", "\u2003", "\u3000", "\u200b", "\u200d", "\ufeff", "\u2028", "\u2029", "\x85",
          "\x0b", "\x0c", "\x1c", "\x00", "\u180e", "\u202f", "\u1680", "\xad", "\u2060", "\u202e", "\u00a0 \u00a0"]
NUMBERS = ["0", "7", "42", "100", "1234", "12345", "1234567890", "3.14159", "1,000,000", "-273.15", "6.02e23", "0xFF",
           "٣٤٥٦", "۱۲۳۴", "१२३४५", "๑๒๓", "０１２３４", "Ⅷ", "²³", "½⅓", "①②③", "一二三", "𝟏𝟐𝟑", "𑁦𑁧𑁨", "1st", "2nd", "A1B2C3"]
MARKS = ["e\u0301", "a\u0308\u0323", "o\u0302\u0301", "n\u0303", "\u0041\u030a", "\u212b", "\u1e9b\u0323", "q\u0307\u0323", "\u0344",
         "u\u0308\u0304", "\u1100\u1161\u11a8", "\uac00\u11a8", "\u0915\u093c", "\u0958", "\u0b47\u0b56", "\u0dd9\u0dcf\u0dca",
         "\u304b\u3099", "\u30cf\u309a", "Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d", "\ufb1d", "\u05e9\u05c1\u05bc",
         "\u0627\u0653", "\uf900", "\u2126", "\u1f71", "\u0308x", "\u0301", "\U0001d15e", "\U0001109a",
         "\u1715\u0323", "\U000105d2\u0307", "\U00011935\U00011930", "c\u0327\u0301", "\u0f71\u0f72", "\u0f73"]
INVALID = [b"\xff", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\x80", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\xe0\x80\xaf",
           b"\xf8\x88\x80\x80\x80", b"\xfe\xff", b"abc\xc3(def", b"\xc3\xa9\xa9", b"\xe2\x28\xa1", b"\xf0\x28\x8c\xbc"]


def random_character(rng: random.Random) -> str:
    """Any code point that is no surrogate, mostly from where characters are."""
    planes = [(0x20, 0x250), (0x250, 0x2000), (0x2000, 0x3400), (0xA000, 0xAC00), (0xF900, 0x10000), (0x10000, 0x12000),
              (0x16000, 0x19000), (0x1AFF0, 0x1FC00), (0x4E00, 0xA000), (0xAC00, 0xD7B0), (0x20000, 0x32000),
              (0xE0000, 0xE0200), (0, 0x110000)]
    while True:
        c = rng.randrange(*rng.choice(planes))
        if not 0xD800 <= c < 0xE000:
            return chr(c)


def fragment(rng: random.Random) -> bytes:
    kind = rng.randrange(16)
    if kind < 5:
        words = rng.choice(SENTENCES).split(" ")
        begin = rng.randrange(len(words))
        text = " ".join(words[begin:begin + rng.randint(1, 5)])[:90]
        if rng.random() < 0.1:
            text = unicodedata.normalize("NFD", text)
        if rng.random() < 0.1:
            text = text.upper()
        return text.encode()
    if kind == 5:
        code = rng.choice(CODE)
        begin = rng.randrange(len(code))
        return code[begin:begin + rng.randint(1, 50)].encode()
    if kind == 6:
        return rng.choice(EMOJI).encode()
    if kind == 7:
        return rng.choice(SPECIAL).encode()
    if kind in (8, 9):
        return rng.choice(SPACES).encode()
    if kind in (10, 11):
        return rng.choice(NUMBERS).encode()
    if kind == 12:
        return rng.choice(MARKS).encode()
    if kind == 13:
        return rng.choice(INVALID) if rng.random() < 0.3 else rng.choice(".,;:!?-_()[]{}<>/\\|@#$%^&*~`'\"+=").encode()
    if kind == 14:
        return "".join(random_character(rng) for _ in range(rng.randint(1, 12))).encode()
    return (rng.choice("aZ0 .é漢\n\t!") * rng.choice([2, 3, 5, 8, 17])).encode()


def texts() -> list[bytes]:
    rng = random.Random(20240917)
    out = [text.encode() for text in [*SENTENCES, *CODE, *EMOJI, *SPECIAL, *SPACES, *NUMBERS, *MARKS]] + INVALID
    out += [b"", b" a", b"a ", b"  a  b   c    ", b"hello world", b"Hello, World!", b"a" * 300, b" " * 200, b"\n" * 100,
            "漢字".encode() * 60, b"ab" * 100 + b" " + b"ab" * 100, b"0123456789" * 12, b"!?" * 60, " \t".encode() * 50]
    out += [unicodedata.normalize("NFD", text).encode() for text in SENTENCES]
    out += [b"x" + space.encode() + b"y" + space.encode() + space.encode() + b"7" for space in SPACES]
    out += [b"a" + token.encode() + b" b " + token.encode() + token.encode() for token in SPECIAL]
    out += [chr(c).encode() + b"a" + chr(c).encode() + b" " + chr(c).encode() + b"1" for c in range(256)]
    while len(out) < 2400:
        separator = rng.choice([b"", b"", b" "])
        out.append(separator.join(fragment(rng) for _ in range(rng.randint(1, 9))))
    return out


def escaped(text: bytes) -> str:
    named = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    out = ""
    for c in text.decode(errors="surrogateescape"):
        if c in named:
            out += named[c]
        elif c == " " or unicodedata.category(c)[0] in "LMNPS":
            out += c
        else:
            out += "".join(f"\\x{byte:02x}" for byte in c.encode(errors="surrogateescape"))
    return out


def main() -> None:
    path = pathlib.Path(__file__).parent.parent / "tests" / "tokenizer" / "data" / "corpus.txt"
    path.write_text("".join(escaped(text) + "\n" for text in texts()), newline="\n")


main()
