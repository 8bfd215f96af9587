#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# chatstream-audit: whom it answers, what it finds, page by page, in each database; and what it says when there is none.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Database;
use ChatStream::Test;
use ChatStream::Token;
use Digest::SHA ();
use MIME::Base64 ();

my @modules = qw(auth_basic authn_core authn_file authz_host authz_user);
my $STREAMS = 130;

sub location
{
    my ($name, @lines) = @_;
    return join "\n", qq(<Location "/audit/$name">), (map { "    $_" } 'SetHandler chatstream-audit', @lines), "</Location>\n";
}

sub basic { return ('AuthType Basic', 'AuthName audit', 'AuthUserFile conf/users', @_) }

sub config
{
    my ($secret) = @_;
    return chat('/chat', 'sse?tokens=1', 'ChatStreamRecord sessions audit', "ChatStreamJWTKey HS256 $secret")
        . location('ip', 'Require ip 127.0.0.1')
        . location('user', basic('Require user admin'))
        . location('either', basic('Require user admin', 'Require ip 10.9.9.9'))
        . location('both', '<RequireAll>', 'Require all granted', 'Require ip 127.0.0.1', '</RequireAll>')
        . location('nothing')
        . location('everybody', 'Require all granted')
        . location('quoted', 'Require "all" granted')
        . location('or-everybody', 'Require ip 127.0.0.1', 'Require all granted')
        . location('any', '<RequireAny>', 'Require ip 127.0.0.1', '<RequireAll>', 'Require all granted', '</RequireAll>', '</RequireAny>')
        . location('all-but-one', '<RequireAll>', 'Require all granted', 'Require not ip 10.9.9.9', '</RequireAll>')
        . location('none-of', '<RequireAll>', 'Require all granted', '<RequireNone>', 'Require ip 10.9.9.9', '</RequireNone>', '</RequireAll>')
        . location('method', 'Require method GET')
        . location('merged', 'AuthMerging Or', 'Require ip 127.0.0.1')
        . location('denied', 'Require all denied')
        . location('closed', basic('Require user admin'))
        . location('closed/inside')
        . join '', map { qq(<Location "/audit/$_->[0]">\n$_->[1]\nInclude conf/audit.conf\n</Location>\n) }
            [ 'shared-closed', 'Require ip 127.0.0.1' ], [ 'shared-open', '' ];
}

sub write_file
{
    my ($file, $text) = @_;
    open my $handle, '>', $file or die "$file: $!\n";
    print $handle $text;
    close $handle or die "$file: $!\n";
    return;
}

sub prepare
{
    my ($t) = @_;
    my $dir = $t->dir;
    my $key = ChatStream::Token->new('HS256', dir => $dir);
    write_file("$dir/conf/users", join '', map { "$_:{SHA}" . MIME::Base64::encode(Digest::SHA::sha1("secret of $_"), '') . "\n" } qw(admin guest));
    write_file("$dir/conf/audit.conf", "SetHandler chatstream-audit\n");
    $t->httpd->{config} = config($key->file);
    return $key;
}

sub as { my ($user) = @_; return (headers => [ Authorization => 'Basic ' . MIME::Base64::encode("$user:secret of $user", '') ]) }

# ---- whom it answers -------------------------------------------------------------------------------------------------------

sub who_may
{
    my ($t) = @_;
    my $status = sub { return $t->request("/audit/$_[0]", @_[ 1 .. $#_ ])->status };
    is $status->($_), 200, "$_: answers" for qw(ip both);
    for my $section (qw(user either closed closed/inside)) {
        is $status->($section), 401, "$section: nobody without a name";
        is $status->($section, as('guest')), 401, "$section: not everybody with one" if $section ne 'either';
        is $status->($section, as('admin')), 200, "$section: the admin";
    }
    my @open = qw(nothing everybody quoted or-everybody any all-but-one none-of method merged shared-closed shared-open);
    for my $section (@open) {
        my $answer = $t->request("/audit/$section");
        is $answer->status, 403, "$section: refused";
        is $answer->json->{code}, 'forbidden', "$section: by the handler, that says why";
    }
    is scalar(() = $t->error_log =~ /chatstream-audit does not work without a Require/g), scalar @open, 'and so does the error log';
    is $status->('denied'), 403, 'denied: httpd says no';
    $t->expect_log(qr/chatstream-audit does not work without a Require/);
    $t->allow_log(qr/\[(?:auth_basic|authz_core|authn_core):error\]/);
    return;
}

# ---- what it finds ---------------------------------------------------------------------------------------------------------

sub query { my (%filter) = @_; return join '&', map { my $value = $filter{$_} =~ s/([^\w.-])/sprintf '%%%02X', ord $1/ger; "$_=$value" } sort keys %filter }

# Every page of that filter, one after another.
sub rows
{
    my ($t, $limit, %filter) = @_;
    my ($after, @rows) = (0);
    while (defined $after) {
        my $answer = $t->request('/audit/ip?' . query(%filter, limit => $limit, after => $after));
        $answer->status == 200 or die $answer->status . ': ' . $answer->body;
        my $page = $answer->json;
        @{ $page->{rows} } <= $limit or die 'a page of ' . @{ $page->{rows} };
        push @rows, @{ $page->{rows} };
        !defined $page->{next} || $page->{next} > $after or die "next is $page->{next} after $after";
        $after = $page->{next};
    }
    return @rows;
}

sub ids { return join ' ', map { $_->{id} } @_ }

sub what_it_finds
{
    my ($t, $name, $key, $dbh) = @_;
    my %token = map { my $user = $_; $user => $key->sign({ sub => $user, email => "$user\@example.com", exp => time + 600 }) } qw(anna bob);
    my $answer = $t->request('/audit/ip');
    is $answer->body, qq({"rows":[],"next":null}\n), "$name: nothing has happened yet";

    my @streams;
    for my $number (1 .. $STREAMS) {
        my $who = (qw(anna bob), undef)[ $number % 3 ];
        my $stream = $t->stream("/chat?message=word$number", from => '127.0.0.9', $who ? (headers => [ Authorization => "Bearer $token{$who}" ]) : ());
        push @streams, $stream->header('x-stream-id');
        $stream->body;
        $stream->close;
    }
    $t->request('/chat?message=x&token=eyJ.wrong.token', from => '127.0.0.9') for 1 .. 3;
    my $expected = 2 * $STREAMS + 3;
    my $dbi = $dbh->();
    my $count = sub { return $dbi->selectrow_array("SELECT count(*) FROM audit_log WHERE event IN ('stream_open', 'stream_close', 'auth_failed')") };
    ok wait_until(sub { $count->() == $expected }, 20), "$name: all are in the database" or diag $count->() . " of $expected";
    $t->wait_active(0);

    my $ids = sub { return join ' ', map { $_->[0] } @{ $dbi->selectall_arrayref("SELECT id FROM audit_log $_[0] ORDER BY id", undef, @_[ 1 .. $#_ ]) } };
    my $everything = $ids->('');
    my @all = rows($t, 100);
    is ids(@all), $everything, "$name: in pages of 100 each row comes once, in order";
    is ids(rows($t, $_)), $everything, "$name: in pages of $_ too" for 7, 1000, scalar @all;
    is scalar(@{ $t->request('/audit/ip')->json->{rows} }), 100, "$name: a page is 100 rows when nobody says";

    my ($open) = grep { $_->{event} eq 'stream_open' && ($_->{user_key} // '') eq 'anna' } @all;
    is_deeply [ sort keys %$open ],
        [ sort qw(id chain seq ts event stream_id user_key user_email ip query_hash detail salt identity_hash prev_hash hash) ], "$name: what a row has";
    is $open->{user_email}, 'anna@example.com', "$name: her address of e-mail";
    is $open->{ip}, undef, "$name: no address of a stream";
    my ($close) = grep { $_->{event} eq 'stream_close' } @all;
    is ref $close->{detail}, 'HASH', "$name: the detail is JSON";
    is $close->{detail}{status}, 'completed', "$name: and says how it ended";
    my ($failed) = grep { $_->{event} eq 'auth_failed' } @all;
    is $failed->{ip}, '127.0.0.0/24', "$name: of somebody unknown the network";

    my %by;
    push @{ $by{event}{ $_->{event} } }, $_ for @all;
    push @{ $by{user}{ $_->{user_key} } }, $_ for grep { defined $_->{user_key} } @all;
    push @{ $by{stream_id}{ $_->{stream_id} } }, $_ for grep { defined $_->{stream_id} } @all;
    is ids(rows($t, 50, event => $_)), ids(@{ $by{event}{$_} }), "$name: event=$_" for qw(stream_open stream_close auth_failed);
    is ids(rows($t, 13, user => $_)), ids(@{ $by{user}{$_} }), "$name: user=$_" for sort keys %{ $by{user} };
    is ids(rows($t, 50, stream_id => $streams[5])), ids(@{ $by{stream_id}{ $streams[5] } }), "$name: stream_id";
    is scalar @{ $by{stream_id}{ $streams[5] } }, 2, "$name: its beginning and its end";
    is ids(rows($t, 50, @$_)), '', "$name: @$_: nothing" for [ event => 'nonsense' ], [ user => q(' OR '1'='1) ], [ stream_id => '%' ], [ user => 'ann' ];

    # From is included, until is not.
    my ($first, $last) = map { my $ts = $_->{ts}; $ts =~ s/ /T/; $ts =~ /Z$/ ? $ts : "${ts}Z" } @all[ 40, 200 ];
    my $in = sub { my ($row) = @_; my $ts = $row->{ts}; return $ts ge $all[40]{ts} && $ts lt $all[200]{ts} };
    is ids(rows($t, 30, from => $first, until => $last)), ids(grep { $in->($_) } @all), "$name: from and until";
    is ids(rows($t, 30, from => $first)), ids(grep { $_->{ts} ge $all[40]{ts} } @all), "$name: from";
    is ids(rows($t, 30, until => $last)), ids(grep { $_->{ts} lt $all[200]{ts} } @all), "$name: until";
    is ids(rows($t, 30, until => 1)), '', "$name: until, in seconds";
    is ids(rows($t, 30, from => time + 3600)), '', "$name: from, in seconds";
    is ids(rows($t, 300, from => '1970-01-01T00:00:00.5Z', until => '2999-12-31T23:59:59Z')), $everything, "$name: from long ago till much later";
    is ids(rows($t, 10, from => $first, until => $last, user => 'anna', event => 'stream_close')),
        ids(grep { $in->($_) && ($_->{user_key} // '') eq 'anna' && $_->{event} eq 'stream_close' } @all), "$name: time, user and event";
    my $of = (grep { $_->{event} eq 'stream_open' && ($_->{user_key} // '') eq 'bob' } @all)[0];
    is ids(rows($t, 10, stream_id => $of->{stream_id}, user => 'bob', event => 'stream_open', until => '2999-12-31T23:59:59Z')), $of->{id}, "$name: all of them";
    is ids(rows($t, 10, stream_id => $of->{stream_id}, user => 'anna')), '', "$name: and all of them count";

    my $head = $t->request('/audit/ip?limit=3', method => 'HEAD');
    is $head->status, 200, "$name: HEAD";
    is $head->header('content-length'), length $t->request('/audit/ip?limit=3')->body, "$name: with the length";
    is $head->header('content-type'), 'application/json', "$name: and the type";
    is $head->header('cache-control'), 'no-store', "$name: kept by nobody";
    is $head->body, '', "$name: and no body";
    return;
}

# ---- what it refuses -------------------------------------------------------------------------------------------------------

sub what_it_refuses
{
    my ($t) = @_;
    my @bad = (
        'evnt=stream_open', 'event=stream_open&x', 'x=1&limit=2',
        (map { ("from=$_", "until=$_") } qw(yesterday 2026-02-30T00:00:00Z 2026-13-01T00:00:00Z 2026-02-17 2026-02-17T10:00:00 2026-02-17T25:00:00Z
            2026-02-17T10:60:00Z 2026-02-17T10:00:61Z 2026-02-17T10:00:nanZ 2026-02-17T10:00:1e1Z 2026-02-17T10:00:00.Z 2026-02-17T10:00:00ZZ
            +026-02-17T10:00:00Z 1969-12-31T23:59:59Z -1 +1 1.5 0x10 123456789012345), '%201', '1%0A'),
        (map { "limit=$_" } qw(0 -1 1001 x 1x 1.5 %2B1), '%201', '99999999999999999999'),
        (map { "after=$_" } qw(-1 x 1x 1.5 99999999999999999999 %2B1)),
        (map { ("$_=" . 'x' x 256, "$_=%ff") } qw(event user stream_id)),
    );
    my @answered = grep { my $answer = $t->request("/audit/ip?$_"); $answer->status != 400 || $answer->json->{code} ne 'bad_request' } @bad;
    is "@answered", '', scalar(@bad) . ' wrong questions are answered 400';
    is $t->request("/audit/ip?$_")->status, 200, "$_ is fine" for 'limit=1000', 'event=', 'user=' . 'x' x 255, 'after=0', 'from=1771322400',
        'from=2026-02-17T10:00:00.123456789Z', '';
    for my $method (qw(POST PUT DELETE)) {
        my $answer = $t->request('/audit/ip', method => $method, body => 'event=x');
        is $answer->status, 405, "$method: 405";
        is $answer->header('allow'), 'GET, HEAD', "$method: and what is allowed";
    }
    is $t->request('/audit/nothing', method => 'POST', body => '')->status, 405, 'open to everybody or not';
    return;
}

sub nothing_in_the_log
{
    my ($t, $name) = @_;
    unlike $t->error_log, qr/anna|bob|example\.com|word\d|127\.0\.0\.9|eyJ/, "$name: the error log tells of nobody";
    return;
}

sub away
{
    my ($t, $name) = @_;
    my $answer;
    ok wait_until(sub { ($answer = $t->request('/audit/ip?user=anna'))->status == 503 }, 10), "$name: 503 when the database is away";
    is $answer->header('content-type'), 'application/problem+json', "$name: with a problem";
    is $answer->json->{code}, 'unavailable', "$name: that has a code";
    ok $answer->header('retry-after'), "$name: and when to come back";
    unlike $answer->body, qr/chatstream\.db|anna|dbname|host=/, "$name: and nothing about the inside";
    return;
}

sub back { my ($t, $name) = @_; ok wait_until(sub { $t->request('/audit/ip?user=anna')->status == 200 }, 20), "$name: and it is back"; return }

# ---- SQLite's file in the state directory ----------------------------------------------------------------------------------

{
    my $name = 'the default';
    my $t = ChatStream::Test->new(start => 0, children => 2, modules => [@modules]);
    my $key = prepare($t);
    my $state = $t->dir . '/state';
    $t->httpd->{server_config} = "ChatStreamStateDir \"$state\"\n";
    $t->start;
    who_may($t);
    what_it_finds($t, $name, $key, sub { return DBI->connect("dbi:SQLite:dbname=$state/chatstream.db", '', '', { RaiseError => 1, sqlite_busy_timeout => 10_000 }) });
    what_it_refuses($t);
    nothing_in_the_log($t, $name);
    $t->check;
    nothing_in_the_log($t, "$name, at the end");
}

# ---- mod_dbd's -------------------------------------------------------------------------------------------------------------

for my $kind (qw(sqlite3 pgsql)) {
    my $t = ChatStream::Test->new(start => 0, children => 2, modules => [@modules], database => $kind);
    my $key = prepare($t);
    $t->start;
    my $database = $t->database;
    what_it_finds($t, $kind, $key, sub { return $database->dbh });
    if ($kind eq 'pgsql') {
        ok $t->records_settled, "$kind: the records have settled";
        $database->stop;
        away($t, $kind);
        $database->start;
        back($t, $kind);
        $t->expect_log(qr/chatstream-audit: /);
        $t->allow_log(qr/\[dbd:error\]|the database is away/);
    }
    nothing_in_the_log($t, $kind);
    $t->check;
}

# A file that is no database.
{
    my $t = ChatStream::Test->new(start => 0, modules => [@modules]);
    my $state = $t->dir . '/state';
    mkdir $state or die;
    write_file("$state/chatstream.db", 'something else entirely ' x 1000);
    chown +(getpwnam 'www-data')[ 2, 3 ], $state, "$state/chatstream.db" if $> == 0;
    prepare($t);
    $t->httpd->{server_config} = "ChatStreamStateDir \"$state\"\n";
    $t->start;
    away($t, 'no database');
    $t->expect_log(qr/chatstream-audit: /);
    $t->allow_log(qr/the database is away/);
    $t->check;
}

# ---- nothing recorded ------------------------------------------------------------------------------------------------------

my $t = ChatStream::Test->new(modules => [@modules], config => chat('/chat', 'sse?tokens=1') . location('ip', 'Require ip 127.0.0.1'));
my $answer = $t->request('/audit/ip');
is $answer->status . ' ' . $answer->json->{code}, '404 not_recorded', 'no ChatStreamRecord anywhere: 404';
$t->done;
