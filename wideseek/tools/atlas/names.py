"""What the data packages do not say: names people use, who depends on whom, and a few corrections.

Everything here is general knowledge written down by hand; no list and no figure comes from elsewhere.
"""

CONTINENTS = {
    "AF": ("Africa", "African"),
    "AN": ("Antarctica", "Antarctic"),
    "AS": ("Asia", "Asian"),
    "EU": ("Europe", "European"),
    "NA": ("North America", "North American"),
    "OC": ("Oceania", "Oceanian"),
    "SA": ("South America", "South American"),
}

BIG_CITY = 500_000  # people

# Country records that no longer describe anything: Serbia and Montenegro, the Netherlands Antilles.
DISSOLVED = frozenset({"CS", "AN"})

# Dependent territory -> the state it belongs to. Everything else is listed as a country.
DEPENDENT = {
    **dict.fromkeys("AI BM FK GI GS IO KY MS PN SH TC VG".split(), "GB"),
    **dict.fromkeys("GG IM JE".split(), "GB"),  # crown dependencies
    **dict.fromkeys("BL GF GP MF MQ NC PF PM RE TF WF YT".split(), "FR"),
    **dict.fromkeys("AW BQ CW SX".split(), "NL"),
    **dict.fromkeys("AS GU MP PR UM VI".split(), "US"),
    **dict.fromkeys("CC CX HM NF".split(), "AU"),
    **dict.fromkeys("CK NU TK".split(), "NZ"),
    **dict.fromkeys("BV SJ".split(), "NO"),
    **dict.fromkeys("FO GL".split(), "DK"),
    **dict.fromkeys("HK MO".split(), "CN"),
    "AX": "FI",
}
# Neither a country nor anybody's territory in the lists; its own word for status.
OTHER_STATUS = {"AQ": "area under the Antarctic Treaty", "EH": "disputed territory"}
LIMITED_RECOGNITION = frozenset({"PS", "TW", "XK"})
CITY_AND_STATE_IN_ONE = frozenset({"VA"})  # one page for both

# GeoNames country fields that were overtaken or are not meant as the field says, with the reason.
COUNTRY_CORRECTIONS = {
    "BG": {"currencycode": "EUR"},  # euro since 1 January 2026; ISO 4217 no longer lists the lev
    "CW": {"capital": "Willemstad"},  # stray blank
    "KZ": {"capital": "Astana"},  # renamed back in 2022
    "MC": {"areakm2": 1.95},  # GeoNames's figure, which the package cuts to 1
    "NL": {"name": "Netherlands"},
    "PW": {"capital": "Ngerulmud"},  # in the state of Melekeok
    "US": {"neighbours": "CA,MX"},  # Cuba: only the leased base at Guantánamo
    "CU": {"neighbours": ""},
    "VA": {"name": "Vatican City", "areakm2": 0.44},  # cut to 0 by the package
}
ELEMENT_CORRECTIONS = {60: {"discovery_year": 1885}}  # neodymium, with praseodymium

COUNTRY_ALIASES = {
    "AE": ("UAE", "Emirates"),
    "BA": ("Bosnia", "Bosnia-Herzegovina"),
    "BO": ("Plurinational State of Bolivia",),
    "CD": ("DR Congo", "DRC", "Congo-Kinshasa", "Zaire"),
    "CF": ("CAR",),
    "CG": ("Congo", "Congo-Brazzaville"),
    "CI": ("Cote d'Ivoire",),
    "CN": ("PRC", "Mainland China"),
    "CV": ("Cape Verde",),
    "CZ": ("Czech Republic",),
    "FK": ("Malvinas", "Falklands"),
    "FM": ("Federated States of Micronesia",),
    "FO": ("Faroes",),
    "GB": (
        "UK",
        "Great Britain",
        "Britain",
        "U.K.",
        "England, Scotland, Wales and Northern Ireland",
    ),
    "IE": ("Republic of Ireland", "Eire"),
    "IR": ("Persia",),
    "KG": ("Kyrgyz Republic",),
    "KN": ("St Kitts and Nevis", "St. Kitts"),
    "KP": ("DPRK",),
    "KR": ("Republic of Korea", "Korea", "ROK"),
    "LC": ("St Lucia",),
    "MK": ("Macedonia", "FYROM"),
    "MM": ("Burma",),
    "MO": ("Macau",),
    "NL": ("Holland", "The Netherlands"),
    "PS": ("Palestine",),
    "RU": ("Russian Federation",),
    "ST": ("Sao Tome",),
    "SZ": ("Swaziland",),
    "TL": ("East Timor",),
    "TR": ("Turkiye",),
    "TT": ("Trinidad",),
    "US": ("USA", "US", "U.S.A.", "U.S.", "America", "United States of America", "the States"),
    "VA": ("Vatican", "Holy See"),
    "VC": ("St Vincent and the Grenadines", "Saint Vincent"),
}

DEMONYMS = {
    "AF": "Afghan", "AL": "Albanian", "AM": "Armenian", "AO": "Angolan", "AR": "Argentine", "AT": "Austrian",
    "AU": "Australian", "AZ": "Azerbaijani", "BD": "Bangladeshi", "BE": "Belgian", "BG": "Bulgarian",
    "BO": "Bolivian", "BR": "Brazilian", "BY": "Belarusian", "CA": "Canadian", "CH": "Swiss", "CL": "Chilean",
    "CM": "Cameroonian", "CN": "Chinese", "CO": "Colombian", "CU": "Cuban", "CZ": "Czech", "DE": "German",
    "DK": "Danish", "DZ": "Algerian", "EC": "Ecuadorian", "EE": "Estonian", "EG": "Egyptian", "ES": "Spanish",
    "ET": "Ethiopian", "FI": "Finnish", "FR": "French", "GB": "British", "GE": "Georgian", "GH": "Ghanaian",
    "GR": "Greek", "GT": "Guatemalan", "HR": "Croatian", "HU": "Hungarian", "ID": "Indonesian", "IE": "Irish",
    "IL": "Israeli", "IN": "Indian", "IQ": "Iraqi", "IR": "Iranian", "IS": "Icelandic", "IT": "Italian",
    "JM": "Jamaican", "JO": "Jordanian", "JP": "Japanese", "KE": "Kenyan", "KH": "Cambodian",
    "KP": "North Korean", "KR": "South Korean", "KZ": "Kazakh", "LB": "Lebanese", "LT": "Lithuanian",
    "LV": "Latvian", "LY": "Libyan", "MA": "Moroccan", "MG": "Malagasy", "MM": "Burmese", "MN": "Mongolian",
    "MX": "Mexican", "MY": "Malaysian", "MZ": "Mozambican", "NG": "Nigerian", "NL": "Dutch", "NO": "Norwegian",
    "NP": "Nepalese", "NZ": "New Zealand", "PE": "Peruvian", "PH": "Philippine", "PK": "Pakistani",
    "PL": "Polish", "PT": "Portuguese", "PY": "Paraguayan", "RO": "Romanian", "RS": "Serbian", "RU": "Russian",
    "RW": "Rwandan", "SA": "Saudi Arabian", "SD": "Sudanese", "SE": "Swedish", "SN": "Senegalese",
    "SY": "Syrian", "TH": "Thai", "TN": "Tunisian", "TR": "Turkish", "TW": "Taiwanese", "TZ": "Tanzanian",
    "UA": "Ukrainian", "UG": "Ugandan", "US": "American", "UY": "Uruguayan", "UZ": "Uzbek",
    "VE": "Venezuelan", "VN": "Vietnamese", "YE": "Yemeni", "ZA": "South African", "ZM": "Zambian",
    "ZW": "Zimbabwean",
}  # fmt: skip

# City as GeoNames writes it -> other English names.
CITY_ALIASES = {
    "Al Başrah al Qadīmah": ("Old Basra",), "Antwerp": ("Antwerpen",), "Basrah": ("Basra",),
    "Beijing": ("Peking",), "Bengaluru": ("Bangalore",), "Chattogram": ("Chittagong",), "Chennai": ("Madras",),
    "Fes": ("Fez",), "Gqeberha": ("Port Elizabeth",), "Guangzhou": ("Canton",), "Gurugram": ("Gurgaon",),
    "Hannover": ("Hanover",), "Ho Chi Minh City": ("Saigon",), "Kimhae": ("Gimhae",), "Kolkata": ("Calcutta",),
    "Köln": ("Cologne",), "Kraków": ("Cracow",), "Kyiv": ("Kiev",), "León de los Aldama": ("León",),
    "Lyon": ("Lyons",), "Madinah": ("Medina",), "Makkah": ("Mecca",), "Marrakesh": ("Marrakech",),
    "Marseille": ("Marseilles",), "Mumbai": ("Bombay",), "Mysuru": ("Mysore",), "Nanjing": ("Nanking",),
    "Nay Pyi Taw": ("Naypyidaw",), "New York City": ("New York", "NYC"), "Nizhniy Novgorod": ("Nizhny Novgorod",),
    "Odesa": ("Odessa",), "Prayagraj": ("Allahabad",), "Pune": ("Poona",), "Saint Petersburg": ("St Petersburg",),
    "Santiago de Querétaro": ("Querétaro",), "Sevilla": ("Seville",), "Thessaloniki": ("Salonica",),
    "Thiruvananthapuram": ("Trivandrum",), "Tianjin": ("Tientsin",), "Ulaanbaatar": ("Ulan Bator",),
    "Vadodara": ("Baroda",), "Varanasi": ("Benares",), "Vienna": ("Wien",),
    "Washington": ("Washington D.C.",),
    "Xi’an": ("Sian",), "Yangon": ("Rangoon",), "Zaragoza": ("Saragossa",), "Zaporizhzhya": ("Zaporizhzhia",),
}  # fmt: skip

# ISO 639-3 name -> the title of its page, where dropping the brackets is not enough.
LANGUAGE_TITLES = {
    "Modern Greek (1453-)": "Greek", "Nauru": "Nauruan", "Official Aramaic (700-300 BCE)": "Aramaic",
    "Tokelau": "Tokelauan", "Tonga (Tonga Islands)": "Tongan", "Tonga (Zambia)": "Tonga of Zambia",
    "Tuvalu": "Tuvaluan", "Yue Chinese": "Cantonese",
}  # fmt: skip
LANGUAGE_ALIASES = {
    "Bengali": ("Bangla",), "Burmese": ("Myanmar",), "Cantonese": ("Yue Chinese",), "Catalan": ("Valencian",),
    "Chichewa": ("Nyanja", "Chewa"), "Dimli": ("Zazaki", "Zaza"), "Divehi": ("Dhivehi", "Maldivian"),
    "Ganda": ("Luganda",), "Gilbertese": ("Kiribati",), "Greek": ("Modern Greek",), "Haitian": ("Haitian Creole",),
    "Iloko": ("Ilocano",), "Irish": ("Irish Gaelic",), "Kalaallisut": ("Greenlandic",), "Kikuyu": ("Gikuyu",),
    "Kirghiz": ("Kyrgyz",), "Limburgan": ("Limburgish",), "Lushai": ("Mizo",), "Manipuri": ("Meitei",),
    "Min Nan Chinese": ("Hokkien",), "Oriya": ("Odia",), "Panjabi": ("Punjabi",), "Papiamento": ("Papiamentu",),
    "Pedi": ("Northern Sotho",), "Persian": ("Farsi",), "Pushto": ("Pashto",), "Rundi": ("Kirundi",),
    "Sinhala": ("Sinhalese",), "Spanish": ("Castilian",), "Swati": ("Swazi",), "Tuvinian": ("Tuvan",),
    "Uighur": ("Uyghur",), "Yakut": ("Sakha",),
}  # fmt: skip
LANGUAGE_TYPE_ALIASES = {
    "C": ("artificial languages", "invented languages", "auxiliary languages", "planned languages"),
    "H": ("dead languages", "extinct languages", "ancient languages", "classical languages"),
}
LANGUAGE_TYPES = {"L": "living language", "H": "historical language", "C": "constructed language"}

CURRENCY_ALIASES = {
    "AED": ("Emirati Dirham",), "BAM": ("Bosnian Mark",), "BYN": ("Belarusian Rouble",),
    "CNY": ("Renminbi", "Chinese Yuan", "RMB"),
    "CHF": ("Franken",), "GBP": ("British Pound", "Sterling"), "ILS": ("Israeli Shekel", "New Shekel"),
    "JPY": ("Japanese Yen",), "KRW": ("South Korean Won", "Korean Won"), "PEN": ("Peruvian Sol",),
    "PLN": ("Polish Zloty",), "RUB": ("Russian Rouble", "Rouble"), "THB": ("Thai Baht",),
    "UAH": ("Ukrainian Hryvnia",), "USD": ("American Dollar", "United States Dollar", "Greenback"),
    "VES": ("Venezuelan Bolivar",), "VND": ("Vietnamese Dong",), "XAF": ("Central African CFA Franc",),
    "XOF": ("West African CFA Franc",), "ZAR": ("South African Rand",),
}  # fmt: skip
# Last word (or first) of a currency's name that several share -> plural.
CURRENCY_WORDS = {
    "Dinar": "dinars", "Dollar": "dollars", "Franc": "francs", "Krona": "kronas", "Krone": "krones", "Kwacha": "kwachas",
    "Leu": "lei", "Manat": "manats", "Peso": "pesos", "Pound": "pounds", "Rial": "rials", "Ruble": "rubles",
    "Rupee": "rupees", "Shilling": "shillings", "Won": "wons",
}  # fmt: skip

CENTURIES = {
    17: "seventeenth",
    18: "eighteenth",
    19: "nineteenth",
    20: "twentieth",
    21: "twenty-first",
}
NOT_A_DISCOVERER = frozenset(
    {"et al", "Argonne", "Los Alamos", "U of Calif"}
)  # parts of one credit
ELEMENT_ALIASES = {
    "Aluminum": ("Aluminium",), "Cesium": ("Caesium",), "Sulfur": ("Sulphur",), "Tungsten": ("Wolfram",),
    "Mercury": ("Quicksilver",), "Sodium": ("Natrium",), "Potassium": ("Kalium",),
}  # fmt: skip
# mendeleev's series -> (title of the list, one of them, other ways of asking)
ELEMENT_CATEGORIES = {
    "Nonmetals": ("Nonmetals", "nonmetal", ("non-metals", "non-metallic elements")),
    "Noble gases": ("Noble gases", "noble gas", ("inert gases", "rare gases")),
    "Alkali metals": ("Alkali metals", "alkali metal", ("alkalis",)),
    "Alkaline earth metals": ("Alkaline earth metals", "alkaline earth metal", ("alkaline earths",)),
    "Metalloids": ("Metalloids", "metalloid", ("semimetals", "semi-metals")),
    "Halogens": ("Halogens", "halogen", ()),
    "Poor metals": ("Post-transition metals", "post-transition metal", ("poor metals", "other metals")),
    "Transition metals": ("Transition metals", "transition metal", ("transition elements",)),
    "Lanthanides": ("Lanthanides", "lanthanide", ("lanthanoids", "rare earth elements", "rare earths")),
    "Actinides": ("Actinides", "actinide", ("actinoids",)),
}  # fmt: skip
