#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# conf/chatstream.conf documents every directive of the module, and no other; its contexts are those of the C table.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Source;
use Test::More;

# AP_INIT_TAKE1("ChatStreamX", setter, NULL, RSRC_CONF | ACCESS_CONF, "..."), perhaps over several lines
my %table;
my $code = code_of('src/config/directives.c');
my %macro = $code =~ /^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+(\S.*)$/mg;
while ($code =~ /\bAP_INIT_\w+\s*\(\s*"(\w+)"\s*,(.*?)"/gs) {
    my ($name, $rest) = ($1, $2);
    ok !$table{$name}, "$name is in the table once";
    $rest =~ s/\b(\w+)\b/$macro{$1} \/\/ $1/ge;
    $table{$name} = $rest =~ /\b(?:ACCESS_CONF|OR_\w+)\b/ ? 'directory' : 'server';
}
cmp_ok scalar keys %table, '>', 10, 'found the directive table';

my %documented;
my $reference = text_of('conf/chatstream.conf');
for my $entry (split /^(?=# Directive: )/m, $reference) {
    my ($name) = $entry =~ /^# Directive: (\w+)$/m or next;
    ok !$documented{$name}, "$name is documented once";
    $documented{$name} = $entry;
}
cmp_ok scalar keys %documented, '>', 10, 'found the reference';

is_deeply [ sort keys %documented ], [ sort keys %table ], 'the reference has every directive and no other';

for my $name (sort grep { $documented{$_} } keys %table) {
    my $entry = $documented{$name};
    my %field = $entry =~ /^#   (Syntax|Default|Context) +(\S.*)$/mg;
    like $field{Syntax} // '', qr/^\Q$name\E /, "$name: syntax";
    like $field{Default} // '', qr/^(?:\Q$name\E |none\b|the )/, "$name: default";
    is $field{Context} // '', $table{$name} eq 'server' ? 'server config' : 'server config, virtual host, directory',
        "$name: context as in the table";
    like $entry, qr/^#\Q$name\E \S/m, "$name: has an example";
}

# What the examples use exists.
for my $file (files_in('conf/examples', qr/\.conf$/)) {
    my %used = map { $_ => 1 } text_of($file) =~ /^\s*#?\s*(ChatStream[A-Z]\w+)\s/mg;
    ok %used, "$file uses directives";
    is join(' ', grep { !$table{$_} } sort keys %used), '', "$file uses only directives that exist";
}

done_testing();
