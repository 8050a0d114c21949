#!/usr/bin/env python3
"""Make tests/fixtures/text/chat.json: chat templates of the shapes that models publish, and small ones
for each construct of the language, with what Jinja2 renders when set up as the transformers library does.

Needs `pip install jinja2`; the tests themselves need only the file.
Run: gen_text_chat.py OUT_FILE
"""
import datetime
import json
import sys

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

DATE = 1767323045  # 2026-01-02 03:04:05 UTC

LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")

LLAMA31 = r"""{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    DATE_CHOICE
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- The system message goes first, wherever it came from. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{#- System message and builtin tools #}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if builtin_tools is defined or tools is not none %}
    {{- "Environment: ipython\n" }}
{%- endif %}
{%- if builtin_tools is defined %}
    {{- "Tools: " + builtin_tools | reject('equalto', 'code_interpreter') | join(", ") + "\n\n"}}
{%- endif %}
{{- "Knowledge until: December 2023\n" }}
{{- "Today: " + date_string + "\n\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {{- "These functions may be called. " }}
    {{- 'Answer with {"name": function, "parameters": arguments}.' }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}

{#- Own tools come with the first user message #}
{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("No user message to put the tools into!") }}
{%- endif %}
    {{- '<|start_header_id|>user<|end_header_id|>\n\n' -}}
    {{- "Functions:\n\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n\n" }}
    {%- endfor %}
    {{- first_user_message + "<|eot_id|>"}}
{%- endif %}

{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("One tool call at a time!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {%- if builtin_tools is defined and tool_call.name in builtin_tools %}
            {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
            {{- "<|python_tag|>" + tool_call.name + ".call(" }}
            {%- for arg_name, arg_val in tool_call.arguments | items %}
                {{- arg_name + '="' + arg_val + '"' }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- endif %}
                {%- endfor %}
            {{- ")" }}
        {%- else  %}
            {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
            {{- '{"name": "' + tool_call.name + '", ' }}
            {{- '"parameters": ' }}
            {{- tool_call.arguments | tojson }}
            {{- "}" }}
        {%- endif %}
        {%- if builtin_tools is defined %}
            {{- "<|eom_id|>" }}
        {%- else %}
            {{- "<|eot_id|>" }}
        {%- endif %}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\n\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
OLD_DATE = '{%- set date_string = "26 Jul 2024" %}'
NEW_DATE = ('{%- if strftime_now is defined %}\n        {%- set date_string = strftime_now("%d %b %Y") %}\n    '
            '{%- else %}\n        ' + OLD_DATE + '\n    {%- endif %}')

QWEN25 = r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are a helpful assistant.' }}
    {%- endif %}
    {{- "\n\n# Tools\n\nFunctions you may call, within <tools></tools>:\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools>\n\nReturn <tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\n<tool_call>\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' }}
        {{- message.content }}
        {{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""

CHATML = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
          "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
CHATML_LINES = """{% for message in messages %}
{% if loop.first and messages[0]['role'] != 'system' %}
{{ '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}
{% endif %}
  {% if message.role == 'user' %}
<|im_start|>user
{{ message.content }}<|im_end|>
  {%- else +%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endif %}
{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}
"""
LLAMA2 = ("{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = "
          "messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
          "{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
          "{{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
          "{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + "
          "'\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}"
          "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
          "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}")
QWEN3_LIKE = r"""{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or (not loop.last and reasoning_content)) %}
            {{- '<|im_start|>' + message.role + '\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"""
MACRO = """{%- macro turn(role, text='(none)', mark="#") -%}
{{ mark }}{{ role | upper }}: {{ text | trim }}
{% endmacro -%}
{% for m in messages if m.role != 'system' %}{{ turn(m.role, m.content) }}{% else %}nobody{% endfor %}{{ turn('end', mark='=') }}"""
GENERATION = """{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}
{% else %}{{ m.role }}: {{ m.content }}
{% endif %}{% endfor %}"""

PUBLISHED = {
    "llama3": LLAMA3, "llama31": LLAMA31.replace("DATE_CHOICE", OLD_DATE), "llama32": LLAMA31.replace("DATE_CHOICE", NEW_DATE),
    "qwen25": QWEN25, "chatml": CHATML, "chatml_lines": CHATML_LINES, "llama2": LLAMA2, "qwen3_like": QWEN3_LIKE,
    "macro": MACRO, "generation": GENERATION,
    "concat": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
}

CONVERSATIONS = [
    [["user", "Hello"]],
    [["system", "You are terse."], ["user", "Hello"], ["assistant", "Hi."], ["user", "Why?"]],
    [["user", ""]],
    [["system", ""], ["user", "  padded \n\t "], ["assistant", "\n\nlines\n\n"]],
    [["user", "{{ bos_token }} {% if x %} {# c #} }} %} #} {{"], ["assistant", "a'b\"c\\n\\"], ["user", "<|im_end|><|eot_id|></s>[INST]"]],
    [["user", "naïve 日本語 🦙 \u00a0\u3000"], ["assistant", "\u2028\x1c x \x85"], ["user", "\ufeffé"]],
    [["user", "one"], ["user", "two"]],
    [["assistant", "first"], ["user", "second"]],
    [["system", "only"]],
    [],
    [["user", "q"], ["assistant", "<think>\nreason\n</think>\n\nanswer"], ["user", "r"], ["assistant", "</think>x"]],
    [["tool", "result"], ["user", "ok"], ["tool", "a"], ["tool", "b"]],
    [["user", "x" * 300 + "\r\ny\rz"]],
]

# One line each: a construct, as an expression or a whole template.
SNIPPETS = [
    "{{ 1 + 2 * 3 }} {{ (1 + 2) * 3 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 - -3 }} {{ 6 / 3 }}",
    "{{ 1.5 }} {{ 1.0 }} {{ 1e3 }} {{ 1e16 }} {{ 1.5e-7 }} {{ 0.1 + 0.2 }} {{ 1_000 }} {{ 3 * 1.5 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }}",
    "{{ 'a' 'b' \"c\" }} {{ 'a' ~ 1 ~ none ~ true }} {{ 'x' * 3 }} {{ 3 * 'ab' }} {{ 'a' + 'b' }}",
    r"{{ 'a\tb\\n\'q\' \"r\" \x41\u00e9\101\q' }}",
    "{{ true }} {{ False }} {{ none }} {{ None }} {{ nothing }} {{ [1, 'a', none, true, 1.5] }} {{ {'a': 1, 'b': [2]} }} {{ (1, 2) }} {{ (1,) }} {{ () }} {{ [] }}",
    "{{ ['it\\'s', 'say \"x\"', 'b\\'o\"th', '\\n\\t\\x01é日\\u200b\\xad'] }}",
    "{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ 'a' == 'a' }} {{ [1] == [1] }} {{ (1,) == [1] }} {{ {'a': 1} == {'a': 1} }} {{ none == false }} {{ true == 1 }}",
    "{{ 'a' < 'b' }} {{ 'é' > 'z' }} {{ 2 >= 2 }} {{ 2 != 3 }} {{ 'a' != 1 }}",
    "{{ 'b' in 'abc' }} {{ 'd' not in 'abc' }} {{ 1 in [1, 2] }} {{ 'k' in {'k': 0} }} {{ 'a' in missing }} {{ not 'x' in ['x'] }}",
    "{{ 1 and 0 }} {{ 1 or 0 }} {{ '' or 'x' }} {{ not 1 }} {{ not not 1 }} {{ 0 and missing.x }} {{ true and false or true }}",
    "{{ 'y' if true else 'n' }} {{ 'y' if false }} {{ 'a' if 0 else 'b' if 0 else 'c' }}|{{ ('a' if messages else 'b') ~ '!' }}",
    "{{ messages is defined }} {{ x is defined }} {{ x is not defined }} {{ x is undefined }} {{ none is none }} {{ tools is none }} {{ documents is not none }}",
    "{{ 'a' is string }} {{ 1 is string }} {{ {} is mapping }} {{ [] is sequence }} {{ 'a' is sequence }} {{ [] is iterable }} {{ 1 is iterable }} {{ x is iterable }} {{ x is sequence }}",
    "{{ 1 is number }} {{ 1.5 is number }} {{ true is number }} {{ 1 is integer }} {{ true is integer }} {{ 1.0 is float }} {{ true is boolean }} {{ true is true }} {{ 1 is true }} {{ false is false }}",
    "{{ 3 is odd }} {{ 4 is even }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }} {{ 1 is eq 1 }} {{ 1 is equalto(2) }} {{ 1 is ne 2 }} {{ 1 is in [1] }} {{ 'a' is in 'b' }} {{ 3 is gt 2 }} {{ 3 is le 2 }}",
    "{{ strftime_now is defined }} {{ strftime_now is callable }} {{ raise_exception is defined }} {{ 1 is callable }}",
    "{{ strftime_now('%Y-%m-%d %H:%M:%S %j %p %I %y %a %A %b %B %%') }}",
    "{{ '  a b  ' | trim }}|{{ 'xxaxx' | trim('x') }}|{{ 5 | trim }}|{{ none | trim }}|{{ missing | trim }}|",
    "{{ 'aBc' | upper }} {{ 'aBc' | lower }} {{ 'aBc dEf' | capitalize }} {{ 'éà' | upper }} {{ none | upper }} {{ 'ΑΒΓ' | lower }}",
    "{{ [1, 2, 3] | length }} {{ '日本' | length }} {{ {'a': 1} | count }} {{ missing | length }} {{ () | length }}",
    "{{ [1, 2] | join }} {{ [1, 'a', none] | join(', ') }} {{ messages | join('/', attribute='role') }} {{ 'abc' | join('-') }}",
    "{{ missing | default('d') }} {{ '' | default('d') }}| {{ '' | default('d', true) }} {{ none | default('d') }} {{ 0 | d('z', boolean=true) }} {{ x | default }}|",
    "{{ [3, 1] | first }} {{ [3, 1] | last }} {{ [] | first }}| {{ 'abc' | first }} {{ 'abc' | last }} {{ [1, 2] | reverse | list }} {{ 'abc' | reverse }}",
    "{{ {'a': 1, 'b': 2} | items | list }} {{ {'a': 1}.items() | list }} {{ {'a': 1, 'b': 2}.keys() | list }} {{ {'a': 1}.values() | list }} {{ missing | items | list }} {{ {'b': 1} | list }} {{ 'ab' | list }}",
    "{{ 5 | string + 'x' }} {{ '42' | int + 1 }} {{ 'x' | int }} {{ 'x' | int(7) }} {{ '3.9' | int }} {{ 3.9 | int }} {{ '1.5' | float }} {{ ' 7 ' | int }} {{ -3 | abs }} {{ (-3) | abs }}",
    "{{ 'a.b.c' | replace('.', '-') }} {{ 'aaa' | replace('a', 'b', 2) }} {{ 'abc'.replace('b', '') }} {{ 'abc'.replace('', '-') }} {{ 'aaa'.replace('a', 'x', 1) }}",
    "{{ messages | map(attribute='role') | list }} {{ ['a', 'b'] | map('upper') | join }} {{ [' a '] | map('trim') | list }} {{ messages | map(attribute='nope', default='-') | list }} {{ ['a'] | map('replace', 'a', 'z') | list }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list }} {{ messages | rejectattr('role', 'eq', 'user') | list | length }} {{ messages | selectattr('content') | list | length }}",
    "{{ [1, 2, 3] | select('odd') | list }} {{ [1, 2, 3] | reject('odd') | list }} {{ ['', 'a'] | select | list }} {{ messages | selectattr('role', 'in', ['user', 'tool']) | list | length }} {{ [1, 2] | select('gt', 1) | list }}",
    "{{ {'a': [1, 'x\\n\"é\\u2028', none, true, 1.5], 'b': {}} | tojson }} {{ [] | tojson }} {{ 'a<b>&\\'' | tojson }} {{ 1 | tojson }}",
    "{{ {'a': [1, {'b': 2}], 'c': [], 'd': {}} | tojson(indent=2) }}",
    "{{ ' a '.strip() }}|{{ 'xax'.strip('x') }}|{{ ' a '.lstrip() }}|{{ ' a '.rstrip() }}|{{ 'aXbX'.split('X') }} {{ ' a  b '.split() }} {{ 'a b c'.split(' ', 1) }} {{ ' a b c '.split(none, 1) }} {{ ''.split('x') }} {{ ''.split() }}",
    "{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith('bc') }} {{ 'abc'.startswith('') }} {{ 'abc'.startswith(('x', 'a')) }} {{ 'a'.upper() }} {{ 'A'.lower() }} {{ \"they're bill's\".title() }} {{ 'aBC'.capitalize() }} {{ 'abab'.find('b') }} {{ 'é日b'.find('b') }} {{ 'x'.find('y') }} {{ 'abab'.count('ab') }} {{ 'ab'.count('') }}",
    "{{ ', '.join(['a', 'b']) }} {{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.y'.removesuffix('.y') }} {{ {'a': 1}.get('a') }} {{ {'a': 1}.get('b') }} {{ {'a': 1}.get('b', 2) }} {{ [1, 1, 2].count(1) }}",
    "{{ 'abc'[0] }} {{ 'abc'[-1] }} {{ 'a日c'[1] }} {{ 'abc'[7] }}| {{ [1, 2][5] }}| {{ [1, 2][-2] }} {{ {'a': 1}['a'] }} {{ {'a': 1}.a }} {{ {'a': 1}.b }}| {{ [5, 6].1 }} {{ (1, 2)[1] }} {{ messages[0].role }} {{ messages[0]['role'][0] }}",
    "{{ [1, 2, 3, 4][1:] }} {{ [1, 2, 3, 4][:-1] }} {{ [1, 2, 3, 4][::2] }} {{ [1, 2, 3][::-1] }} {{ 'a日bc'[1:3] }} {{ 'abc'[::-1] }} {{ [1, 2, 3][5:] }} {{ [1, 2, 3][-9:2] }} {{ [1, 2, 3, 4][3:0:-1] }} {{ 'abc'[2:1] }}| {{ [1, 2, 3][:] }} {{ 'abcdef'[-3:-1] }}",
    "{{ range(3) | list }} {{ range(1, 4) | list }} {{ range(5, 0, -2) | list }} {{ range(0) | list }} {{ [1] + [2] }} {{ (1,) + (2,) }}",
    "{% for i in range(3) %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('a', 'b') }}{{ loop.depth }};{% endfor %}",
    "{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}{{ m.role }}{% endfor %}|{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in [] %}x{% else %}empty{% endfor %} {% for i in [1, 2, 3] if i > 1 %}{{ i }}/{{ loop.length }} {% else %}none{% endfor %} {% for k, v in {'a': 1, 'b': 2} | items %}{{ k }}={{ v }};{% endfor %} {% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %} {% for c in 'a日' %}<{{ c }}>{% endfor %} {% for k in {'x': 1} %}{{ k }}{% endfor %}",
    "{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = 5 %}{{ x }}{% endfor %}{{ x }} {% if true %}{% set y = 2 %}{% endif %}{{ y }} {% set a, b = 1, 2 %}{{ a }}{{ b }} {% set t = 1, 2 %}{{ t }}",
    "{% set ns = namespace(n=0, s='a') %}{% for i in [1, 2, 3] %}{% set ns.n = ns.n + i %}{% set ns.s = ns.s ~ i %}{% endfor %}{{ ns.n }}{{ ns.s }}{{ ns.nope is defined }}",
    "{% set t %}  {{ messages[0].content }} {% endset %}[{{ t }}][{{ t | trim }}]{% set d = dict(a=1, b='x') %}{{ d.a }}{{ d }}",
    "{% macro f(a, b=2) %}({{ a }},{{ b }}){% endmacro %}{{ f(1) }}{{ f(1, 3) }}{{ f(a=5, b=6) }}{{ f() }}{{ f(1) | upper }}{% macro g(x) %}{% if x > 0 %}{{ x }}{{ g(x - 1) }}{% endif %}{% endmacro %}{{ g(3) }}",
    "a\n{% if true %}\nb\n{% endif %}\nc\n  {% if true %}  \n d{{ 1 }}\n{% endif %}e\n",
    "x {%- if true -%}  y  {%- endif -%}  z\n  {{- 1 -}}  \n w {{ 2 -}}\n q {#- c -#} r\n{# line #}\ns {# x #}\nt\n   {#  y  #}u\n",
    "  {% if true %}a{% endif %}\n\t{%+ if true %}b{% endif +%}\nc {%+ if true +%}\nd{% endif %}  {% if true %}  e{% endif %}\n\n\n",
    "{{ 1 }}\n\n{{ 2 }}\r\n{% if 1 %}\r\n3{% endif %}\r4\n\n",
    "{{ {'a': {'b': 1}}.a.b }}{{ {'a': 1}}}{{ [{}] }}{{ '}}' }}{{ \"%}\" }}{% if '%}' %}{{ '{{' }}{% endif %}",
    "{{ messages[0].content }}{{ messages[0].content | trim }}{{ messages[-1]['content'] }}{{ messages[99] }}|",
    "{{ raise_exception('stop: ' + messages[0].role) }}",
    "{{ missing.x }}", "{{ 1 / 0 }}", "{{ 1 // 0 }}", "{{ 'a' + 1 }}", "{{ missing + 'a' }}", "{{ 'a' < 1 }}", "{{ 1 in 2 }}", "{% for x in 5 %}{% endfor %}",
    "{{ none.x }}|", "{{ none | length }}", "{% set messages.x = 1 %}", "{% set a, b = [1] %}", "{{ 'a'.split('') }}", "{{ [1].items() }}",
    "{{ [1, 2] | tojson | string | length }} {{ - 1 }} {{ +1 }} {{ -1 | abs }} {{ 2 * -3 }} {{ 'a' | upper ~ 'b' }} {{ 1 ~ 2 * 2 ~ 'x' }} {{ 1 ~ 1 if false else 'p' }}",
    "{{ (messages | first).role }} {{ (messages | list)[0].role }} {{ messages | length > 0 }} {{ not messages | length == 1 }} {{ 'x' is string and 'y' is string }} {{ messages[0] is mapping }} {{ 'role' in messages[0] }} {{ messages[0] | length }} {{ messages[0].items() | list | length }}",
]


def environment():
    class Generation(jinja2.ext.Extension):
        tags = {"generation"}

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(["name:endgeneration"], drop_needle=True)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def strftime_now(form):
        return datetime.datetime.fromtimestamp(DATE, datetime.timezone.utc).strftime(form)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = strftime_now
    return env


def render(env, source, messages, add):
    try:
        out = env.from_string(source).render(
            messages=[{"role": r, "content": c} for r, c in messages], tools=None, documents=None,
            add_generation_prompt=add, bos_token="<s>", eos_token="</s>")
        return {"out": out}
    except jinja2.exceptions.UndefinedError:
        return {"fails": ""}
    except jinja2.exceptions.TemplateError as e:
        return {"fails": str(e)}
    except (TypeError, ZeroDivisionError, ValueError, AttributeError) as e:
        return {"fails": ""}


def main():
    env = environment()
    cases = []
    for name, source in PUBLISHED.items():
        for i, conversation in enumerate(CONVERSATIONS):
            for add in (False, True):
                cases.append(dict(template=name, conversation=i, add=add, **render(env, source, conversation, add)))
    templates = dict(PUBLISHED)
    for k, source in enumerate(SNIPPETS):
        templates[f"snippet{k}"] = source
        for i in (1, 3):
            cases.append(dict(template=f"snippet{k}", conversation=i, add=True, **render(env, source, CONVERSATIONS[i], True)))
    lines = lambda items: ",\n".join(json.dumps(i, separators=(",", ":")) for i in items)
    named = ",\n".join(f"{json.dumps(k)}:{json.dumps(v)}" for k, v in templates.items())
    with open(sys.argv[1], "w") as f:
        f.write(f'{{"date":{DATE},\n"templates":{{\n{named}}},\n"conversations":[\n{lines(CONVERSATIONS)}],\n'
                f'"cases":[\n{lines(cases)}]}}\n')


main()
