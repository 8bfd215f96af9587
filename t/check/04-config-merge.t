#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Every field of the per-directory configuration is both created and merged: a forgotten merge makes a directive silently
# lose its value in an inner section.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Source;
use Test::More;

my ($header) = grep { code_of($_) =~ /struct\s+cs_dir_config_t\b\s*\{|\}\s*cs_dir_config_t\s*;/ }
    files_in('src/config', qr/\.h$/), files_in('include/chatstream', qr/\.h$/);
ok $header, 'found cs_dir_config_t' or BAIL_OUT('no header declares struct cs_dir_config_t');

my $code = code_of($header);
my ($fields) = $code =~ /struct\s+cs_dir_config_t\s*\{(.*?)^\}/ms;
($fields) = $code =~ /typedef\s+struct\s*\{((?:(?!\}).)*?)\}\s*cs_dir_config_t\s*;/s if !defined $fields;
my @names;
for my $declaration (split /;/, $fields // '') {
    $declaration =~ s/\[[^\]]*\]//g;
    $declaration =~ s/\s*:\s*\d+//;
    push @names, $1 while $declaration =~ /\b(\w+)\s*(?:,|$)/g;
}
cmp_ok scalar @names, '>', 10, 'found its fields';

my $merge_file = code_of('src/config/merge.c');
my ($create) = map { body_of($merge_file, $_) } $merge_file =~ /\b(\w*create\w*dir\w*|\w*dir\w*create\w*)\s*\(/;
my ($merge) = map { body_of($merge_file, $_) } $merge_file =~ /\b(\w*merge\w*dir\w*|\w*dir\w*merge\w*)\s*\(/;
ok defined $create, 'found the create function';
ok defined $merge, 'found the merge function';

for my $name (@names) {
    like $create // '', qr/\b\Q$name\E\b/, "$name is created";
    like $merge // '', qr/\b\Q$name\E\b/, "$name is merged";
}

done_testing();
