#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# What the module's own symbols say: nothing of ours is missing (httpd would say so only when it loads the module), nothing but the module
# record is visible, and json-c's functions are json-c's: jansson, which cjose is built on, exports some of the same names.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Source;
use Test::More;

my $module = $ENV{CHATSTREAM_MODULE} || ($ENV{CHATSTREAM_BUILDDIR} || source_dir()) . '/.libs/mod_chatstream.so';
my @undefined = `nm -D --undefined-only '$module'`;
cmp_ok scalar @undefined, '>', 50, 'found what the module takes from elsewhere';
is join('', grep { /\bcs_/ } @undefined), '', 'nothing of ours is missing';

my @json = grep { /\bjson_/ } @undefined;
cmp_ok scalar @json, '>', 5, 'found json-c';
is join('', grep { !/\@JSONC_/ } @json), '', 'all json functions are json-c\'s';

my @visible = grep { !/\b(?:_init|_fini|__bss_start|_edata|_end)\b/ } `nm -D --defined-only '$module'`;
is scalar(grep { /\bchatstream_module\b/ } @visible), 1, 'the module record is visible';
is join('', grep { !/\bchatstream_module\b|\bJSONC_|__asan|__ubsan|__odr_asan|__gcov/ } @visible), '', 'nothing else is';
done_testing();
