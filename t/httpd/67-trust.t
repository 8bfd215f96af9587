#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# What a client says about itself is never believed, unless the configuration says so.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;
use ChatStream::Token;

my $t = ChatStream::Test->new(start => 0, http2 => 1);
my $key = ChatStream::Token->new('HS256', dir => $t->dir);
my $jwt = 'ChatStreamJWTKey HS256 ' . $key->file;
my @trusting = ('ChatStreamUserHeader X-User-Id', $jwt);
$t->httpd->{config} = patient()
    . chat('/plain',    'sse?tokens=2', $jwt)
    . chat('/trusting', 'sse?tokens=2', @trusting)
    . chat('/needed',   'sse?tokens=2', @trusting, 'ChatStreamAuth required')
    . chat('/admin',    'sse?tokens=2', $jwt, q(Require expr "reqenv('CHATSTREAM_CLAIM_ROLE') == 'admin'"))
    . chat('/cohort',   'sse?tokens=2', $jwt, 'ChatStreamRollout 0', 'ChatStreamCohort anna 192.0.2.7')
    . chat('/one',      'sse?script=wait', @trusting, 'ChatStreamMaxPerUser 1', 'ChatStreamOnDisconnect abort 0');
$t->start;
$t->upstream->script(wait => "token a\nwait end\ndone\n");
$t->allow_log(qr/AH0163[01]:/);

sub token { my ($user, %claims) = @_; return [ Authorization => 'Bearer ' . $key->sign({ sub => $user, %claims }) ] }
sub as { return [ 'X-User-Id' => $_[0] ] }

# What the upstream is told about the user of a request: user, e-mail, role.
sub told
{
    my ($path, @rest) = @_;
    my $answer = $t->request($path, @rest);
    return 'status ' . $answer->status if $answer->status != 200;
    my $body = JSON::PP->new->decode(($t->upstream->requests)[-1]{body});
    return join ' ', map { $_ // '-' } @$body{qw(user user_email user_role)};
}

for my $how ([], [ http2 => 1 ]) {
    my $name = @$how ? ', HTTP/2' : '';

    # a header
    is told('/plain?message=hi', headers => as('anna'), @$how), '127.0.0.1 - -', "X-User-Id means nothing$name";
    is told('/trusting?message=hi', headers => as('anna'), @$how), 'anna - -', "unless ChatStreamUserHeader names it$name";
    is told('/trusting?message=hi', headers => [ 'x-user-id' => 'anna' ], @$how), 'anna - -', "in any case$name";
    is told('/trusting?message=hi', headers => [ 'X-User' => 'anna' ], @$how), '127.0.0.1 - -', "and nothing like it$name";
    is told('/trusting?message=hi', headers => [ @{ as('anna') }, @{ token('bob') } ], @$how), 'bob - -', "a token is better$name";
    is told('/trusting?message=hi', headers => [ @{ as('anna') }, @{ token('bob', exp => 1) } ], @$how), 'status 401', "a bad one is not made good by it$name";
    is told('/needed?message=hi', headers => as('anna'), @$how), 'anna - -', "it says who asks, where somebody must$name";
    is told('/needed?message=hi', @$how), 'status 401', "without it nobody does$name";
    is told('/trusting?message=hi', headers => as('x' x 255), @$how), ('x' x 255) . ' - -', "255 bytes are a name$name";
    is told('/trusting?message=hi', headers => as("J\xc3\xbcrgen"), @$how), "J\xfcrgen - -", "any text is$name";
    is told('/trusting?message=hi', headers => as($_->[1]), @$how), 'status 400', "$_->[0] is none$name"
        for ['256 bytes', 'x' x 256], ['broken UTF-8', "a\xff\xfe"], ['overlong UTF-8', "a\xc0\xaf"];
    is told('/plain?message=hi', headers => as("a\xff"), @$how), '127.0.0.1 - -', "where it is not trusted, it is not looked at$name";

    # parameters
    my $said = 'user_email=evil%40example.com&user_role=root&user=root';
    is told("/plain?message=hi&$said", headers => token('anna', email => 'anna@example.com', role => 'member'), @$how),
        'anna anna@example.com member', "a token is not overruled by parameters$name";
    is told("/plain?message=hi&$said", headers => token('anna'), @$how), 'anna - -', "nor completed by them$name";
    is told('/plain', json => { message => 'hi', user_email => 'evil@example.com', user_role => 'root', user => 'root' },
        headers => token('anna', email => 'anna@example.com'), @$how), 'anna anna@example.com -', "in JSON neither$name";
    is told("/plain?message=hi&$said", @$how), '127.0.0.1 evil@example.com root', "without a token they are passed on as what they are$name";

    # forwarded addresses
    is told('/plain?message=hi', headers => [ 'X-Forwarded-For' => '192.0.2.7', Forwarded => 'for=192.0.2.7', 'X-Real-IP' => '192.0.2.7' ], @$how),
        '127.0.0.1 - -', "X-Forwarded-For and its like mean nothing$name";
    is told('/cohort?message=hi', headers => [ 'X-Forwarded-For' => '192.0.2.7' ], @$how), 'status 404', "and open no door$name";
    is told('/cohort?message=hi', headers => as('anna'), @$how), 'status 404', "nor does a name$name";
    is told('/cohort?message=hi&user_email=anna', @$how), 'status 404', "nor a parameter$name";
    is told('/cohort?message=hi', headers => token('anna'), @$how), 'anna - -', "a token does$name";

    # claims
    is told('/admin?message=hi&user_role=admin', headers => [ 'CHATSTREAM-CLAIM-ROLE' => 'admin' ], @$how), 'status 403', "a header is no claim$name";
    is told('/admin?message=hi', headers => token('anna', role => 'admin'), @$how), 'anna - admin', "a claim is$name";
}
is told('/trusting?message=hi', headers => as('')), '127.0.0.1 - -', 'an empty header says nothing';
is $t->request('/trusting?message=hi', headers => as("a\x01b"))->status, 400, 'a control character is refused';
is $t->request('/trusting?message=hi', headers => as("a\x7fb"))->status, 400, 'each of them';
is told('/trusting?message=hi', headers => [ @{ as('anna') }, @{ as('bob') } ]), 'anna, bob - -', 'two are one name, as httpd reads them';

# A name that looks like an address is still another user than the address.
my @streams = map { $t->stream('/one?message=hi', @$_) } [], [ headers => as('127.0.0.1') ], [ headers => as('anna') ];
is join(' ', map { $_->status } @streams), '200 200 200', 'an address and names, one stream each';
is $t->request('/one?message=hi', @$_)->status, 429, 'and no second' for [], [ headers => as('127.0.0.1') ], [ headers => as('anna') ], [ headers => token('anna') ];
$_->event_of('token') for @streams;
my $id = $streams[0]->header('x-stream-id');
is $t->request("/one?last_event_id=$id:1", headers => as($_))->status, 410, "$_ does not get the address's stream" for '127.0.0.1', "anna";
is $t->request("/one?stream_id=$id", method => 'DELETE', headers => as('127.0.0.1'))->status, 410, 'nor ends it';
$_->close for @streams;
ok $t->wait_active(0), 'all are over';
$t->check;

my $behind = ChatStream::Test->new(
    modules => ['remoteip'],
    config  => "RemoteIPHeader X-Forwarded-For\nRemoteIPInternalProxy 127.0.0.1\n" . chat('/plain', 'sse?tokens=2'),
);
for my $case ([ '192.0.2.7' => '192.0.2.7' ], [ '198.51.100.1, 192.0.2.7' => '192.0.2.7' ], [ '2001:db8::7' => '2001:db8::7' ], [ 'nonsense' => '127.0.0.1' ]) {
    my ($header, $user) = @$case;
    is $behind->request('/plain?message=hi', headers => [ 'X-Forwarded-For' => $header ])->status, 200, "mod_remoteip, $header: answered";
    is JSON::PP::decode_json(($behind->upstream->requests)[-1]{body})->{user}, $user, "mod_remoteip, $header: it is its word that counts";
}
$behind->request('/plain?message=hi', from => '127.0.0.2', headers => [ 'X-Forwarded-For' => '192.0.2.7' ]);
is JSON::PP::decode_json(($behind->upstream->requests)[-1]{body})->{user}, '127.0.0.2', 'and it believes only the proxy';
$behind->done;
