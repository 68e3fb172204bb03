"""Words of synthetic prompts; in a row they mean nothing."""

from __future__ import annotations

TEXT = """
able account across action after again against agree allow almost along already always amount animal another answer
appear apple area around arrive article attempt author autumn balance base battle beach because become before begin
behind believe below between beyond bird blue board body bottle bottom branch bread bridge bright bring brother build
burn business butter button carry catch cause centre certain chain chance change chapter cheap check child choose
circle city claim class clean clear climb clock close cloth cloud coast coffee cold collect colour common compare
complete condition connect consider contain continue control copper corner correct cost count country course cover
cross current curve dance danger daughter decide deep degree depend describe design detail develop different direct
discover distance divide doctor double doubtful dream dress drive during early earth east edge effect eight either
electric empty energy engine enough enter equal even event every example except expect explain extend fact fair family
famous farm father favour field figure fill final find finger finish first five flat flight floor flow flower follow
food force foreign forest forget form forward four free fresh friend front fruit full future garden general gentle
glass gold good grain grass great green ground group grow guess guide half hand happen harbour hard heart heat heavy
height help high history hold hope horse hour house hundred idea important inch include increase indeed industry
inside instead interest island join journey judge jump just keep kind kitchen know lake land language large last late
laugh lead learn leave left length less letter level light like line list listen little live long lose loud machine
main make many map mark market matter mean measure meet member metal middle might mile milk mind minute mirror month
morning mother mountain move music name narrow nation nature near need never night nine noise north nothing notice
number object ocean offer office often once open opposite orange order other over page paint paper part pass past
pattern peace pencil people perhaps period person picture piece place plain plan plant play please point position
possible power practice prepare present press print problem produce promise proper public pull purpose push quarter
question quick quiet rain raise rather reach read ready real reason receive record region remain remember repeat
report rest result return rich ride right ring rise river road rock roll room root rough round rule same sand save
scale school science sea season seat second seed seem sell send sense separate serve seven several shape share sharp
sheet ship shop shore short should shoulder show side sign silver similar simple since sister size skill sleep slow
small smell smile smooth snow soft soil some song soon sound south space speak special speed spell spend spring square
stage stand star start state station steam steel step still stone stop store storm story straight strange stream
street strong student subject success sudden sugar suggest summer supply support sure surface surprise swim system
table tail take talk teach team tell temperature ten than thank their theory thick thin thing think third thousand
three through time together tomorrow tone top total touch toward town track trade train travel tree triangle trouble
true turn twelve twenty under unit until usual valley value vary village visit voice wait walk wall warm wash watch
water wave way weather week weight west wheel when where which while white whole wide wild will wind window winter
wish with wonder wood word work world worth write year yellow young
"""
WORDS = TEXT.split()
