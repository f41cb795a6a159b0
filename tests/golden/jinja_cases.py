"""Small templates, one construct each, for check_chat.py.

EXPRESSIONS are rendered as `{{ expression }}`; TEMPLATES are whole templates (jinja_templates.py);
MUTATIONS call methods that change lists and dicts, which the reference's sandbox refuses, so they
are compared with the plain sandbox; DIFFERENT are constructs this interpreter refuses by design.
Whether the reference renders or raises, we must do the same.
"""

CONTEXT = {
    "i": 7, "neg": -3, "zero": 0, "f": 2.5, "big": 123456789012, "t": True, "no": False,
    "nothing": None, "s": "Hello, World", "empty": "", "u": "Grüße 你好 😀 e\u0301",
    "mixed": "  a\tb\nc  ", "lines": "one\ntwo\r\nthree\n\nfive", "quote": "it's", "both": "a'b\"c",
    "html": "<a href=\"x\">&'</a>", "ctl": "a\u200bb\u00a0c\x01\x7f\ufeff",
    "l": [3, 1, 2], "words": ["b", "A", "c", "a"], "nested": [[1, 2], [3, [4]]],
    "d": {"b": 1, "a": 2, "C": 3}, "dd": {"x": {"y": [10, 20, {"z": "deep"}]}, "items": "shadow"},
    "e_list": [], "e_dict": {}, "numstr": "42", "fstr": "3.75", "csv": "a,b,,c",
    "people": [{"name": "Bob", "age": 30, "tags": ["x"]}, {"name": "alice", "age": 25, "tags": []},
               {"name": "Carl", "age": 30, "ok": True}],
    "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U1"},
                 {"role": "assistant", "content": None}, {"role": "user", "content": "U2"}],
}


OPERANDS = ["i", "neg", "zero", "f", "t", "nothing", "s", "l", "d", "missing", "(1, 2)", "'3'"]

# Cut at " ;; " and line ends.
EXPRESSIONS = r"""
# literals and printing
1 ;; -1 ;; +1 ;; 1.0 ;; -0.0 ;; 1e3 ;; 1e16 ;; 1.5e300 ;; 1e-5 ;; 0.0001 ;; 123456789.123 ;; 1_000
0x1F ;; 0o17 ;; 0b101 ;; 0.1+0.2 ;; 1/3 ;; true ;; True ;; false ;; none ;; None ;; 'a' ;; "a"
'a' 'b' ;; '' ;; [] ;; [1] ;; () ;; (1,) ;; (1, 2) ;; 1, 2 ;; {} ;; {'a': 1} ;; {1: 2, 'x': [none]}
{'a': 1, 'a': 2} ;; {1: 'a', true: 'b', 1.0: 'c'} ;; [1, [2, (3,)], {'k': "v"}] ;; '\n\t\\'
'\x41\u00e9\101' ;; '\q' ;; ['\n', "it's", 'say "x"', "'\""] ;; [1.0, 2.5, true, none] ;; 2**10
2**-1 ;; 2**0.5 ;; 7//2 ;; -7//2 ;; 7%3 ;; -7%3 ;; 7%-3 ;; 7.5//2 ;; -7.5%2 ;; 1e308*10 ;; 5/2
4/2 ;; -i ;; -f ;; +t ;; -t ;; not i ;; not missing ;; not '' ;; 9223372036854775807
-9223372036854775807 ;; 100000000000000000.0 ;; 1e22 ;; 123456789012345680.0 ;; 5e-324
1.7976931348623157e308 ;; 2.675 ;; [0.1, 1e100] ;; 3.0 ;; 10**15 ;; 1e15 ;; 1e17 ;; 0.00001234
i is number ;; [missing] ;; [true and missing] ;; l ~ d ;; s ~ i ;; none ~ missing ;; 1 ~ 2 ~ 'x'
1 + 2 ~ 3 ;; 'a' ~ 1 + 2 ;; -1|abs ;; (-1)|abs ;; -2.5|abs ;; -i|abs ;; 2 * 3 ** 2 ;; -2 ** 2
2 ** 3 ** 2 ;; 1 < 2 < 3 ;; 1 < 3 < 2 ;; 1 == 1.0 ;; 1 == true ;; '1' == 1 ;; none == none
missing == missing ;; missing == none ;; [1] == [1] ;; [1] == (1,) ;; {'a': 1} == {'a': 1.0}
1 != 2 ;; 'a' < 'b' ;; 'Z' < 'a' ;; [1, 2] < [1, 3] ;; (1,) < (1, 2) ;; l < d ;; 1 < 'a'
none < 1 ;; i in l ;; 3 in l ;; 'ell' in s ;; 'x' not in s ;; 'a' in d ;; 1 in d ;; none in l
i in s ;; '' in s ;; 'a' in missing ;; missing in l ;; 2 in i ;; [1] in d ;; 1 in (1, 2)
i > 3 and f ;; i and none or s ;; missing or 'd' ;; 0 or '' ;; '' and 1 ;; 1 if t ;; 1 if no
1 if no else 2 ;; 'a' if no else 'b' if no else 'c' ;; (1 if t else 2) + 1 ;; not t or t
not (t or t) ;; t is true ;; no is false ;; i is none
# names, attributes, items, slices
missing ;; missing.x ;; missing['x'] ;; missing[0] ;; d.a ;; d.zz ;; d['a'] ;; d['zz'] ;; d.a.b
d.zz.b ;; d[0] ;; d[none] ;; d[l] ;; l[0] ;; l[-1] ;; l[9] ;; l['x'] ;; l.x ;; l[1.0] ;; l[t]
s[0] ;; s[-1] ;; s[99] ;; u[6] ;; u[7] ;; u[9] ;; u[-1] ;; i.x ;; i[0] ;; nothing.x ;; nothing[0]
dd.x.y[2].z ;; dd['x']['y'][2]['z'] ;; dd.items is string ;; dd['items'] ;; dd.items() is iterable
dd.x.y.2.z ;; l.0 ;; s[1:] ;; s[:3] ;; s[-3:] ;; s[2:5] ;; s[::2] ;; s[::-1] ;; s[5:2] ;; s[99:]
s[:-99] ;; s[-3:99] ;; s[none:2] ;; s[::0] ;; s['a':] ;; s[missing:] ;; u[6:8] ;; u[::-1]
u[1::2] ;; l[1:] ;; l[::-1] ;; l[:0] ;; l[-2:] ;; l[5:] ;; (1, 2, 3)[1:] ;; (1, 2, 3)[::-2]
d[1:] ;; i[1:] ;; range(5)[1:3] ;; range(10)[::-3] ;; range(5)[2] ;; range(5)[-1] ;; range(5)[7]
nested[1][1][0] ;; nested[1, 1] ;; l[1.5] ;; 'abc'[1] ;; 'abc'.x ;; [1, 2, 3][1]
{'a': {'b': 1}}.a.b ;; messages[0].role ;; messages[-1]['content'] ;; messages[1:][0].content
d['b'] + d['a'] ;; (d)['a'] ;; s.__class__ ;; l.__len__ ;; d.__dict__ ;; none.x
''.__class__.__mro__
# filters of text
s|upper ;; s|lower ;; 'hELLO wORLD'|capitalize ;; 'hELLO wORLD-foo (bar) it\'s'|title ;; u|upper
u|title ;; 'ǆ ß ﬁ'|upper ;; 'ǆ'|title ;; 'ΑΣ ΣΑΣ'|lower ;; mixed|trim
mixed|trim|length ;; 'xxaxx'|trim('x') ;; '..a.'|trim('.') ;; ' a '|trim(none) ;; i|upper
none|upper ;; missing|upper ;; missing|trim ;; l|trim ;; s|replace('o', '0')
s|replace('o', '0', 1) ;; s|replace('', '-') ;; s|replace('l', '') ;; i|replace(7, 8) ;; s|length
u|length ;; l|length ;; d|length ;; missing|length ;; i|length ;; none|length ;; s|count
lines|indent ;; lines|indent(2) ;; lines|indent(2, true) ;; lines|indent(2, true, true)
lines|indent('> ') ;; lines|indent(width=1, blank=true) ;; ''|indent ;; i|indent ;; s|center(20)
'ab'|center(5) ;; 'abc'|center(6) ;; s|truncate(8) ;; s|truncate(8, true)
s|truncate(8, true, '..') ;; s|truncate(8, false, '..', 0) ;; s|truncate(2) ;; 'a b  c'|wordcount
u|wordcount ;; html|e ;; html|escape ;; html|safe ;; html|safe|escape ;; html|e|e
html|forceescape ;; (html|e) ~ '<' ;; (html|e) + '<' ;; '<' + (html|e) ;; (html|safe) + '<x>'
[html|safe] ;; (html|safe) * 2 ;; (html|safe)|upper ;; (html|safe)|length ;; (html|safe)|string
i|string ;; l|string ;; none|string ;; missing|string ;; u|list ;; csv.split(',')|join('+')
l|join ;; l|join(', ') ;; l|join(none) ;; words|join('-') ;; d|join(',') ;; s|join('.')
people|join(', ', attribute='name') ;; people|join(', ', 'age') ;; missing|join ;; i|join
'%s=%s'|format('a', 1) ;; '%(a)s'|format(a=2)
'%d %5.2f %-5s| %05d %x %X %o %e %g'|format(1, 2.5, 'a', 42, 255, 255, 8, 12345.678, 0.0001)
'%s'|format ;; 'x'|format('y') ;; '%s %% %c'|format('a', 'b') ;; '%i'|format('a') ;; 'a%sb' % 'c'
'%s %s' % (1, 2) ;; '%s' % l ;; '%s' % (l,) ;; '%(k)s' % {'k': 1} ;; '%d' % 3.9
'%5d|%-5d|%+d' % (1, 2, 3) ;; '%r' % 'a' ;; '%.2s' % 'abc' ;; '%q' % 1 ;; '%s' % missing
'%*d' % (5, 1) ;; '%#x %#o' % (255, 8) ;; '%.3d' % 5 ;; '%s %s' % 1 ;; 'abc' % () ;; 'abc' % {}
'abc' % 1
# filters of values
missing|default('x') ;; missing|d('x') ;; none|default('x') ;; none|default('x', true)
''|default('x', true) ;; 0|default(1, boolean=true) ;; missing|default
missing|default(default_value=3) ;; d.zz|default('y') ;; numstr|int ;; fstr|int ;; 'abc'|int
'abc'|int(5) ;; '0x1f'|int(0, 16) ;; '1f'|int(base=16) ;; f|int ;; -2.9|int ;; ' 12 '|int
'1_000'|int ;; none|int ;; l|int ;; t|int ;; missing|int ;; '1e3'|int ;; 'inf'|int ;; fstr|float
'abc'|float ;; 'abc'|float(1.5) ;; '1e3'|float ;; 'inf'|float ;; 'nan'|float ;; i|float
none|float ;; t|float ;; neg|abs ;; 'a'|abs ;; 2.5|round ;; 3.5|round ;; 2.567|round(2)
2.5|round(0, 'ceil') ;; 2.1|round(method='ceil') ;; 2.9|round(0, 'floor')
2.567|round(1, 'floor') ;; i|round ;; 15|round(-1) ;; 25|round(-1) ;; 1234.5|round(-2) ;; 'x'|round
2.5|round(0, 'x') ;; l|list ;; s|list ;; d|list ;; i|list ;; l|tojson ;; d|tojson ;; s|tojson
u|tojson ;; u|tojson(ensure_ascii=true) ;; ctl|tojson ;; html|tojson ;; none|tojson ;; t|tojson
f|tojson ;; 1e16|tojson ;; missing|tojson ;; [missing]|tojson ;; d|tojson(indent=2)
nested|tojson(indent=1) ;; people|tojson(indent=4) ;; d|tojson(sort_keys=true)
d|tojson(separators=(',', ':')) ;; d|tojson(false, none, (', ', '=')) ;; []|tojson(indent=2)
{}|tojson(indent=2) ;; {'a': []}|tojson(indent=2) ;; (1, 2)|tojson
{1: 2, none: 3, true: 4, 1.5: 5}|tojson ;; {(1, 2): 3}|tojson ;; range(3)|tojson
d.items()|tojson ;; both|tojson ;; lines|tojson ;; d|tojson(indent='--') ;; d|tojson(indent=0)
d|tojson(true) ;; 'a/b</script>'|tojson ;; '[1, 2.5, {"a": null}]'|from_json
'"\\u00e9\\n"'|from_json ;; '{"a": [true, false]}'|from_json ;; 'nope'|from_json ;; ''|from_json
' 1 '|from_json ;; '1 2'|from_json ;; '-0.5e1'|from_json ;; '[1,]'|from_json ;; '01'|from_json
d|attr('a') ;; s|attr('nope') ;; d|items|list ;; missing|items|list ;; l|items|list ;; d|length
(d|items)|length
# filters of sequences
l|sort ;; l|sort(reverse=true) ;; words|sort ;; words|sort(case_sensitive=true)
words|sort(true, true) ;; people|sort(attribute='age')|map(attribute='name')|list
people|sort(attribute='age,name')|map(attribute='name')|list ;; [1, 'a']|sort ;; [none, none]|sort
missing|sort ;; d|sort ;; s|sort ;; [3, 1.5, true]|sort ;; [[2], [1, 5]]|sort
people|sort(attribute='ok') ;; d|dictsort ;; d|dictsort(true) ;; d|dictsort(by='value')
d|dictsort(reverse=true) ;; d|dictsort(false, 'x') ;; l|dictsort ;; l|first ;; l|last
e_list|first ;; e_list|last ;; s|first ;; s|last ;; d|first ;; d|last ;; missing|first
missing|last ;; i|first ;; l|reverse|list ;; s|reverse ;; (1, 2)|reverse|list ;; d|reverse|list
l|max ;; l|min ;; words|max ;; words|min ;; words|max(case_sensitive=true) ;; e_list|max
people|max(attribute='age')|tojson ;; people|min(attribute='name')|tojson ;; [1, 'a']|max ;; l|sum
people|sum(attribute='age') ;; e_list|sum ;; l|sum(start=10) ;; words|sum ;; [0.1, 0.2]|sum
[[1], [2]]|sum(start=[]) ;; words|unique|list ;; ['a', 'A', 'b']|unique|list
['a', 'A', 'b']|unique(true)|list ;; people|unique(attribute='age')|map(attribute='name')|list
[1, 1.0, true, '1']|unique|list ;; [[1]]|unique|list ;; l|batch(2)|list ;; l|batch(2, 'x')|list
range(7)|batch(3)|list ;; range(7)|slice(3)|list ;; range(7)|slice(3, 'x')|list
people|groupby('age') ;; people|groupby('age')|map(attribute='grouper')|list
people|groupby('age')|map('last')|map('length')|list
people|groupby('ok', default=false)|map('first')|list ;; words|map('upper')|list
words|map('upper') ;; words|map('replace', 'a', 'z')|list
people|map(attribute='name')|join(', ') ;; people|map(attribute='tags.0', default='-')|list
people|map(attribute='tags')|list ;; people|map(attribute='nope')|list ;; people|map|list
people|map('nope')|list ;; l|map('string')|join ;; nested|map('first')|list
nested|map('join', '-')|list ;; l|select|list ;; [0, 1, '', none, 'a']|select|list
[0, 1, '']|reject|list ;; l|select('odd')|list ;; l|select('gt', 1)|list ;; l|select('>', 1)|list
l|reject('equalto', 2)|list ;; l|select('in', [1, 2])|list ;; l|select('divisibleby', 3)|list
words|select('lower')|list ;; people|selectattr('ok')|map(attribute='name')|list
people|selectattr('age', 'equalto', 30)|map(attribute='name')|list
people|selectattr('age', '==', 25)|list|length ;; people|rejectattr('age', 'eq', 30)|list|length
people|rejectattr('ok', 'defined')|list|length
people|selectattr('tags.0', 'defined')|list|length ;; people|selectattr|list
l|select('nope')|list
messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|join(',')
messages|selectattr('role', 'in', ['user'])|list|length
messages|rejectattr('content', 'none')|list|length
(messages|selectattr('role', 'equalto', 'zz')) is sequence
1 if messages|selectattr('role', 'equalto', 'zz') else 2
1 if messages|selectattr('role', 'equalto', 'zz')|list else 2 ;; (l|map('string'))[0]
l|map('string')|first ;; l|map('string')|last ;; l|select|length ;; missing|map('upper')|list
none|map('upper')|list ;; i|map('upper')|list
# tests
i is defined ;; missing is defined ;; missing is undefined ;; missing is not defined
d.zz is defined ;; d.a is defined ;; none is none ;; missing is none ;; i is not none
s is string ;; i is string ;; i is integer ;; t is integer ;; f is float ;; i is float
t is number ;; s is number ;; d is mapping ;; l is mapping ;; l is iterable ;; s is iterable
i is iterable ;; missing is iterable ;; d is iterable ;; l is sequence ;; s is sequence
d is sequence ;; i is sequence ;; missing is sequence ;; (1, 2) is sequence
d.items() is sequence ;; d.items() is iterable ;; d.items() is mapping ;; range(3) is sequence
(l|map('string')) is iterable ;; t is boolean ;; 1 is boolean ;; 1 is true ;; t is true
no is false ;; 0 is false ;; none is false ;; i is odd ;; i is even ;; i is divisibleby 7
i is divisibleby(2) ;; s is odd ;; f is odd ;; 3.0 is odd ;; i is eq 7 ;; i is equalto(7)
i is == 7 ;; i is ne 8 ;; i is lt 8 ;; i is lessthan 8 ;; i is le 7 ;; i is gt 7
i is greaterthan 6 ;; i is ge 7 ;; i is in [7] ;; 'a' is in d ;; i is sameas 7
none is sameas none ;; t is sameas true ;; 1 is sameas true ;; l is sameas l
l is sameas [3, 1, 2] ;; s is lower ;; 'abc' is lower ;; 'ABC' is upper ;; '123' is upper
u is lower ;; i is callable ;; range is callable ;; missing is callable ;; s.upper is callable
namespace is callable ;; html is escaped ;; (html|safe) is escaped ;; 'upper' is filter
'nope' is filter ;; 'odd' is test ;; i is nope ;; i is defined and i > 3 ;; i is not odd
not i is odd ;; i is odd is true ;; missing is string ;; i is defined if t else 2
i is gt(3) and i is lt(9) ;; l is not string and l is iterable ;; s is not mapping
(s is string) == true ;; i is in(l) ;; 3 is in l ;; 3 is not in l ;; messages[2].content is none
messages[0].zz is defined ;; messages[9] is defined ;; messages[9].role is defined
none is undefined
# methods of strings
s.upper() ;; s.lower() ;; s.title() ;; "they're bill's 2nd".title() ;; s.capitalize()
s.swapcase() ;; mixed.strip() ;; mixed.lstrip() ;; mixed.rstrip() ;; 'xaxbx'.strip('x')
'abcba'.strip('ab') ;; 'abc'.strip('') ;; 'abc'.strip(none) ;; 'abc'.strip(1) ;; u.strip('Gé')
s.split() ;; s.split(',') ;; s.split(', ') ;; csv.split(',') ;; csv.split(',', 1)
csv.split(',', maxsplit=2) ;; csv.split(sep=',') ;; csv.split(',')[-1] ;; csv.split('')
csv.split(none, 1) ;; mixed.split() ;; mixed.split(none, 1) ;; mixed.split(' ')
mixed.rsplit(none, 1) ;; csv.rsplit(',', 1) ;; csv.rsplit(',') ;; csv.rsplit(',', 1)[0]
'aXbXc'.rsplit('X', -1) ;; ''.split() ;; ''.split(',')
'a</think>b</think>c'.split('</think>')[-1].lstrip('\n')
'a</think>b'.split('</think>')[0].split('<think>')[-1] ;; lines.splitlines()
lines.splitlines(true) ;; 'a\x0bb\x1cc'.splitlines() ;; s.startswith('He') ;; s.startswith('he')
s.startswith(('x', 'H')) ;; s.startswith('l', 2) ;; s.endswith('ld') ;; s.endswith('l', 0, 4)
s.startswith('') ;; s.endswith('') ;; ''.startswith('') ;; s.startswith(1) ;; s.startswith(['H'])
s.replace('l', 'L') ;; s.replace('l', 'L', 2) ;; s.replace('', '.') ;; s.replace('zz', '')
s.replace('l') ;; s.replace(1, 2) ;; 'aaa'.replace('a', 'b', -1) ;; s.find('o') ;; s.find('o', 5)
s.find('zz') ;; s.rfind('o') ;; u.find('好') ;; s.index('o') ;; s.index('zz') ;; s.rindex('l')
s.count('l') ;; s.count('') ;; s.count('l', 4) ;; 'aaaa'.count('aa') ;; ','.join(words)
','.join('abc') ;; ','.join([1]) ;; ','.join(d) ;; ''.join([]) ;; ','.join(missing)
'a-b-c'.partition('-') ;; 'a-b-c'.rpartition('-') ;; 'abc'.partition('-') ;; 'abc'.rpartition('-')
'ab'.center(6, '*') ;; 'ab'.center(5) ;; 'ab'.ljust(4) ~ '|' ;; 'ab'.rjust(4, '.') ;; '42'.zfill(5)
'-42'.zfill(5) ;; 'ab'.center(4, 'xx') ;; 'a\tb'.expandtabs(4) ;; 'abc'.removeprefix('a')
'abc'.removesuffix('bc') ;; '123'.isdigit() ;; '12a'.isdigit() ;; ''.isdigit() ;; '²'.isdigit()
'²'.isdecimal() ;; '½'.isnumeric() ;; 'abc'.isalpha() ;; 'ab1'.isalnum() ;; ' \t'.isspace()
'abc'.islower() ;; 'ABC'.isupper() ;; 'Abc Def'.istitle() ;; 'abc'.isidentifier() ;; 'é'.isascii()
'a'.isprintable() ;; ctl.isprintable() ;; '{} {}'.format(1, 'a') ;; '{0} {1} {0}'.format(1, 2)
'{a} {b}'.format(a=1, b=2) ;; '{{}}'.format() ;; '{}'.format()
'{:>5}|{:<5}|{:^5}|'.format(1, 'a', 'b')
'{:05d} {:+d} {:x} {:#x} {:b} {:,}'.format(42, 3, 255, 255, 5, 1234567)
'{:.2f} {:8.3f} {:e} {:g} {:%}'.format(3.14159, 2.5, 12345.678, 0.00001, 0.25)
'{:.3}'.format('abcdef') ;; '{!r} {!s}'.format('a', 'b') ;; '{0[a]} {0[b]}'.format(d)
'{0[1]}'.format(l) ;; '{:*^10}'.format('hi') ;; '{:{}}'.format('a', 5) ;; '{'.format()
'}'.format() ;; '{x}'.format() ;; '{:d}'.format('a') ;; '{:s}'.format(1) ;; '{} {1}'.format(1, 2)
'{}'.format(none) ;; '{}'.format(l) ;; '{}'.format(true) ;; '{:d}'.format(true)
'{:5}'.format(none) ;; '{:.1f}'.format(0.25) ;; '{:.0f}'.format(2.5) ;; '{:10}|'.format(1.5)
'{:<10}|'.format(1.5) ;; '{:_}'.format(1234567) ;; '{:n}'.format(5) ;; '{:c}'.format(65)
'{:.3}'.format(3.14159) ;; '{:.3}'.format(1.0) ;; s.nope() ;; s.upper ;; s.upper(1) ;; s.split(1)
i.upper() ;; none.upper() ;; missing.upper() ;; l.upper() ;; s.format ;; u.upper() ;; u.swapcase()
'ß'.upper() ;; 'İ'.lower() ;; 'ŉ'.title()
# methods of lists and dicts, functions, operators
d.items()|list ;; d.items() ;; d.keys() ;; d.values() ;; d.keys()|list ;; d.values()|list
d.get('a') ;; d.get('zz') ;; d.get('zz', 5) ;; d.get('zz', default=5) ;; d.get() ;; d.get(l)
d.items()|length ;; d.keys()|first ;; d.items()[0] ;; 'a' in d.keys() ;; ('a', 2) in d.items()
2 in d.values() ;; d.copy() ;; l.copy() ;; l.index(1) ;; l.index(9) ;; l.count(3)
(1, 2, 1).count(1) ;; (1, 2).index(2) ;; l.index(2, 1) ;; d.nope() ;; d.a() ;; range(3)
range(3)|list ;; range(1, 4)|list ;; range(5, 0, -2)|list ;; range(0)|list ;; range(3, 1)|list
range(0, 3, 0) ;; range(1.5) ;; range() ;; range('a') ;; range(100001) ;; range(100000)|length
range(-5, 5, 3)|list ;; 3 in range(5) ;; 3.0 in range(5) ;; 7 in range(0, 10, 2)
range(3) == range(3) ;; range(2, 9, 3) ;; range(5)|sum ;; namespace(a=1).a ;; namespace(a=1).b
namespace({'a': 1}).a ;; namespace(a=1) ;; namespace() ;; dict(a=1) ;; dict(a=1, **{'b': 2})
dict([('a', 1)]) ;; dict({'a': 1}, b=2) ;; dict([1]) ;; dict(1) ;; joiner()() ~ 'x'
cycler('a', 'b').next() ;; cycler('a', 'b').current ;; cycler() ;; raise_exception('boom: ' ~ s)
raise_exception() ;; raise_exception(none)|nope() ;; i() ;; d['a']() ;; strftime_now('%Y-%m-%d')
strftime_now('%d %b %Y %j %A %B %y %%') ;; strftime_now('|%z|%Z|')
strftime_now('') ;; strftime_now() ;; strftime_now('plain') ;; [*l] ;; range(*[1, 3]) ;; dict(**d)
range(*5) ;; l + [4] ;; l + (4,) ;; (1,) + (2,) ;; l + none ;; s + 1 ;; s + missing ;; missing + s
s * 2 ;; 2 * s ;; s * -1 ;; l * 2 ;; (1,) * 3 ;; s * f ;; s - 'a' ;; l - l ;; d + d ;; s / 2
1 / 0 ;; 1 // 0 ;; 1 % 0 ;; 1.5 / 0 ;; 0 ** -1 ;; f ** 2 ;; i ** f ;; big * 10 ;; t + t ;; none + 1
'a' + 'b' 'c' ;; i / 2 * 2 ;; i - -1 ;; i--1 ;; 2 ** 62 ;; f // 0.5 ;; 0.3 % 0.1 ;; -1 // 2.0
1e308 ** 2 ;; (-8) ** 0.5 is defined
# parsing: most of it is broken
(1 ;; (1)) ;; [ ;; { ;; 1 + ;; 1 2 ;; a b ;; .x ;; d. ;; d.'a' ;; l[ ;; l[] ;; d[ ;; f(
f(a=1, 2) ;; dict(**d, a=1) ;; 1 if ;; if 1 ;; not ;; i not 3 ;; i is ;; i is not ;; i ;; upper
1 ;; upper.x ;; 'abc ;; "abc' ;; 1..2 ;; 1. ;; .5 ;; 1e ;; 0x ;; 007 ;; a.b.c ;; $ ;; @ ;; !i
i === 1 ;; i = 1 ;; i <> 1 ;; i && t ;; i and ;; and i ;; [1,] ;; [1,,2] ;; {1} ;; {'a'} ;; {'a': }
{'a': 1,} ;; (,) ;; () ;; (1,2,) ;; d.a. ;; l[1:2:3:4] ;; l[1,2:3] ;; f(*) ;; dict(a=) ;; d['a'
d['a')) ;; }} ;; i is in ;; i is odd even ;; d.items ;; d.items.x ;; 1.x ;; 'a'.1 ;; (1).x ;; i.0
f.0 ;; -s ;; +s ;; -missing ;; not not t ;; - - 1 ;; -'a' ;; (1, 2 ;; 3 ;; string ;; [i
string, 1] ;; {'a' ;; upper: 1} ;; i |upper ;; i|1 ;; i|upper.x ;; upper|(1) ;; (1, 2|3
[i|string, 1] ;; {'a'|upper: 1} ;; 'a|b'|upper ;; d|length ;; e_list|e ;; s|d|e
"""

# For every pair of operands A and B.
OF_TWO = r"""
A + B ;; A - B ;; A * B ;; A / B ;; A // B ;; A % B ;; A == B ;; A != B ;; A < B ;; A >= B
A in B ;; A ~ B ;; A and B ;; A or B
"""

# For every operand A.
OF_ONE = r"""
-A ;; not A ;; A is A ;; A|string ;; A|list ;; A|int ;; A|float ;; A|tojson ;; A|length ;; A|first
A|join('-') ;; A|default('z') ;; A|default('z', true) ;; A|abs ;; A|sort ;; A|sum ;; [A] ;; (A,)
{'k': A} ;; {A: 1} ;; A if A else 0 ;; A[0] ;; A['a'] ;; A.a ;; A[:1] ;; A ** 2 ;; A|upper
A|trim ;; A|round ;; A|reverse|list ;; A|max ;; A|unique|list ;; A|map('string')|list
A|items|list ;; A|dictsort ;; A|safe ;; A|e ;; A|batch(2)|list ;; range(A) ;; dict(A) ;; dict(**A)
'%s' % A ;; '%d' % A ;; '{}'.format(A) ;; s.split(A) ;; s.startswith(A) ;; s.replace(A, 'x')
l.index(A) ;; d.get(A) ;; s * A ;; A.items() ;; A.strip() ;; A|replace('a', 'b') ;; A|indent
A|wordcount ;; A|title ;; A|capitalize
"""

# `A is B` for every operand A.
TESTS = r"""
defined ;; undefined ;; none ;; string ;; number ;; integer ;; float ;; boolean ;; true ;; false
mapping ;; sequence ;; iterable ;; callable ;; odd ;; even ;; lower ;; upper ;; escaped ;; eq 7
ne 7 ;; lt 7 ;; ge 7 ;; in l ;; sameas i ;; divisibleby 2
"""

MUTATIONS = [
    '{% set x = [1] %}{% do x.append(2) %}{{ x }}',
    '{% set x = [1] %}{% set _ = x.append(2) %}{{ x }}{{ _ }}',
    '{% set x = [1, 2, 3] %}{{ x.pop() }}{{ x.pop(0) }}{{ x }}',
    '{% set x = [] %}{{ x.pop() }}',
    '{% set x = [1, 2] %}{{ x.pop(5) }}',
    ('{% set x = [1] %}{% do x.insert(0, 0) %}{% do x.insert(99, 9) %}{% do x.insert(-'
     '1, 5) %}{{ x }}'),
    "{% set x = [1] %}{% do x.extend([2, 3]) %}{% do x.extend('ab') %}{{ x }}",
    '{% set x = [1] %}{% do x.extend(x) %}{{ x }}',
    ('{% set x = [3, 1, 2] %}{% do x.sort() %}{{ x }}{% do x.sort(reverse=true) %}{{ x'
     ' }}{% do x.reverse() %}{{ x }}'),
    '{% set x = [1, 2, 1] %}{% do x.remove(1) %}{{ x }}',
    '{% set x = [1] %}{% do x.remove(9) %}',
    '{% set x = [1] %}{% do x.clear() %}{{ x }}',
    "{% set x = {'a': 1, 'b': 2} %}{{ x.pop('a') }}{{ x }}{{ x.pop('z', 5) }}",
    "{% set x = {'a': 1} %}{{ x.pop('z') }}",
    "{% set x = {'a': 1} %}{% do x.update({'b': 2}, c=3) %}{{ x }}",
    "{% set x = {'a': 1} %}{% do x.update([('b', 2)]) %}{% do x.update(a=9) %}{{ x }}",
    ("{% set x = {'a': 1} %}{{ x.setdefault('a', 5) }}{{ x.setdefault('b', 6) }}{{ x.s"
     "etdefault('c') }}{{ x }}"),
    "{% set x = {'a': 1, 'b': 2} %}{{ x.popitem() }}{{ x }}",
    "{% set x = {'a': 1} %}{% do x.clear() %}{{ x }}",
    ('{% set x = [1, 2] %}{% for y in x %}{% if loop.index < 5 %}{% do x.append(y) %}{'
     '% endif %}{{ y }}{% endfor %}{{ x }}'),
    "{% set x = {'a': 1} %}{% for k in x %}{% do x.update({k ~ 'z': 1}) %}{% endfor %}",
    '{% set x = [1, 2, 3] %}{% for y in x %}{% do x.pop() %}{{ y }}{% endfor %}{{ x }}',
    '{% set x = d %}{% do x.update(a=100) %}{{ d.a }}',
    ('{% set x = [1] %}{% set y = x %}{% do y.append(2) %}{{ x }}{% set z = x.copy() %'
     '}{% do z.append(3) %}{{ x }}{{ z }}'),
    '{% do l.append(4) %}{{ l }}',
    ('{% set x = {} %}{% for n in range(30) %}{% do x.update({n: n * n}) %}{% endfor %'
     '}{% for n in range(0, 30, 3) %}{% do x.pop(n) %}{% endfor %}{{ x }}{{ x[4] }}{{ '
     'x[3] is defined }}'),
]

DIFFERENT = [
    '{{ 9223372036854775807 + 1 }}',
    '{{ 2 ** 64 }}',
    "{{ '99999999999999999999'|int }}",
    '{{ 99999999999999999999 }}',
    '{% block a %}{% endblock %}',
    '{{ -9223372036854775807 - 2 }}',
    '{{ 10 ** 30 }}',
    "{{ '\\N{DASH}' }}",
    "{{ '\\ud800' }}",
    '{% autoescape true %}x{% endautoescape %}',
]


def cut(block):
    lines = (line for line in block.splitlines() if line and not line.startswith("# "))
    return [part.strip() for line in lines for part in line.split(" ;; ")]


def fill(forms, *operands):
    """Each form with each operand for A, and each for B where there are two lists."""
    if len(operands) == 1:
        return [form.replace("A", a) for form in forms for a in operands[0]]
    return [form.replace("A", a).replace("B", b)
            for form in forms for a in operands[0] for b in operands[1]]


def values():
    """Every expression, once."""
    out = cut(EXPRESSIONS)
    out += fill(cut(OF_TWO), OPERANDS, OPERANDS)
    out += fill(cut(OF_ONE), OPERANDS)
    out += fill(["A is B"], OPERANDS, cut(TESTS))
    return list(dict.fromkeys(out))
