#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The doors of the house open one way (DESIGN.md, section 2): who may include what.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Source;
use Test::More;

# Kinds of headers. What is in none of them is libc.
my %kind = (
    httpd  => qr/^(?:httpd|http_\w+|ap_\w+|util_\w+|mod_\w+|mpm_common|scoreboard|heartbeat)\.h$/,
    curl   => qr{^curl/},
    json   => qr{^(?:json-c/)?json\w*\.h$},
    apr    => qr/^ap[ru]_?\w*\.h$/,
    openssl => qr{^openssl/},
    jose   => qr{^cjose/},
    sql    => qr/^(?:apr_dbd|mod_dbd|sqlite3|libpq-fe|mysql)\.h$/,
);

# For each room: the kinds of headers and the doorways of other rooms it may include. A doorway (include/chatstream/NAME.h)
# obeys its room's rules. gate's algorithms know only core; what ties them to a request is named gate*.c.
my %rules = (
    core     => { kinds => 'apr',                doors => '' },
    event    => { kinds => 'apr json',           doors => 'core' },
    log      => { kinds => 'apr',                doors => 'core event' },
    gate     => { kinds => 'apr json openssl jose', doors => 'core' },
    upstream => { kinds => 'apr curl json openssl', doors => 'core event' },
    config   => { kinds => 'apr httpd json openssl', doors => '*', not_doors => 'gate stream' },
    request  => { kinds => 'apr httpd json',     doors => '*' },
    stream   => { kinds => 'apr httpd',          doors => '*', not_doors => 'gate' },
    sink     => { kinds => 'apr httpd',          doors => '*', not_doors => 'gate stream' },
    observe  => { kinds => 'apr httpd json',     doors => '*', not_doors => 'gate stream' },
    record   => { kinds => 'apr httpd json openssl sql', doors => '*', not_doors => 'gate stream' },
);

my $looked_at = 0;
my %seen;
for my $file (files_in('src', qr/\.[ch]$/), files_in('include/chatstream', qr/\.h$/)) {
    my ($room) = $file =~ m{^(?:src|include/chatstream)/(\w+)(?:/|\.h$)} or next;
    my $rule = $rules{$room};
    if (!$rule) {
        fail "$file: the room $room has rules";
        next;
    }
    $seen{$room}++;
    $looked_at++;
    my %kinds = map { $_ => 1 } split ' ', $rule->{kinds};
    my %doors = map { $_ => 1 } split ' ', $rule->{doors};
    my %not_doors = map { $_ => 1 } split ' ', $rule->{not_doors} // '';
    my @wrong;
    for my $include (includes_of($file)) {
        my ($mark, $name) = $include =~ /^([<"])(.*)[>"]$/;
        if ($mark eq '<') {
            my ($is) = sort { ($b eq 'sql') <=> ($a eq 'sql') } grep { $name =~ $kind{$_} } keys %kind;
            push @wrong, "$include ($is)" if $is && !$kinds{$is};
            push @wrong, "$include (curl is upstream's alone)" if $name =~ /curl/ && $room ne 'upstream';
        }
        elsif ($name =~ m{^chatstream/(\w+)\.h$}) {
            push @wrong, $include if $1 ne $room && ((!$doors{$1} && !$doors{'*'}) || $not_doors{$1});
        }
        else {
            # A header without a doorway is private to its room, whichever way it is named.
            push @wrong, "$include (private)" if $name =~ /\.\.\// || !-e source_dir() . "/src/$room/" . $name =~ s{^\Q$room\E/}{}r;
        }
    }
    is join(', ', @wrong), '', "$file includes only what it may";
}
cmp_ok $looked_at, '>', 20, 'found the sources';
ok $seen{$_}, "found the room $_" for qw(core event log gate upstream config request stream sink observe);

# The front door only wires.
my @front = text_of('mod_chatstream.c') =~ /\n/g;
cmp_ok scalar @front, '<=', 350, 'mod_chatstream.c is at most 350 lines';
my @curl = grep { /curl|json/ } includes_of('mod_chatstream.c');
is "@curl", '', 'mod_chatstream.c knows neither curl nor json-c';

# The unit tests and fuzzers are the second users of core, event and log; they would not link with a server.
for my $file (files_in('t/unit', qr/\.[ch]$/), files_in('t/fuzz', qr/\.[ch]$/)) {
    my @wrong = grep { $_ =~ /^<(.*)>$/ && ($1 =~ $kind{httpd} || $1 =~ $kind{curl}) } includes_of($file);
    is "@wrong", '', "$file knows neither server nor curl";
}

# APLOGNO numbers belong to httpd's own modules.
my @numbered = grep { code_of($_) =~ /\bAPLOGNO\b/ } 'mod_chatstream.c', files_in('src', qr/\.[ch]$/);
is "@numbered", '', 'nobody takes an APLOGNO number';

done_testing();
